"""The benchmark of the segmentation S2CNN on a network of one layer: its table, its bars, its last line."""

import json
import time
import types

import jax
import numpy as np
import pytest

from benchmarks import segmentation_s2cnn as benchmark

TINY = {
    "input_bandlimit": 3, "features": (2,), "bandlimits": (2,), "kernel_max_beta": (0.1, 0.1), "output_bandlimit": 3,
}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(benchmark, "QUICK", TINY)


def checkout(folder):
    path = folder / benchmark.PEER_FILE
    path.parent.mkdir(parents=True)
    path.write_text("")
    return str(folder)


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_last_line_has_rows_peer_and_bars(tiny, tmp_path, monkeypatch, capsys):
    seen = {}

    def run_peer(folder, config, images, found, rounds):
        seen.update(config=config, shape=found["faithful"].output.shape, calls=found["faithful"].calls)
        ratios = {"faithful": {"within": 25.0, "before": 30.0}}
        return {"first_call_s": 2e6, "forward_s": 1e6, "ratios": ratios, "relative_difference": 3e-7}

    monkeypatch.setattr(benchmark, "run_peer", run_peer)
    arguments = ["--quick", "--no-training", "--variants", "faithful", "--peer", checkout(tmp_path)]
    assert benchmark.main(arguments) == 0
    report = last_line(capsys)
    assert report["rows"][0]["variant"] == "faithful"
    assert report["rows"][0]["uncached_forward_s"] > 0
    assert seen["config"].mode == "faithful"
    assert seen["shape"] == (1, 6, 6, 11)
    assert set(seen["calls"]) == {"within", "before"}
    assert set(report["bars"]) == {"tables_s", "speed", "relative_difference"}
    assert report["met"]


def test_without_the_original_its_bars_are_neither_met_nor_missed(monkeypatch, capsys):
    row = dict.fromkeys(("tables_s", "tables_mb", "compile_s", "forward_s", "uncached_forward_s"), 1.0)
    prediction = types.SimpleNamespace(row={"variant": "faithful", **row})
    monkeypatch.setattr(benchmark, "bench_prediction", lambda *_: prediction)
    assert benchmark.main(["--no-training", "--variants", "faithful"]) == 0
    report = last_line(capsys)
    assert report["met"] is None
    assert report["bars"]["tables_s"]["met"] is True
    assert report["bars"]["speed"] == {"ratio": None, "bar": benchmark.PEER_BAR, "at_most": False, "met": None}


def test_the_training_step_that_is_timed_is_one_of_adam_on_all_parameters(tiny, monkeypatch):
    steps = []

    def once(program, params, *rest, repeats):
        steps.append((params, program(params, *rest)[0]))
        return 0.5

    monkeypatch.setattr(benchmark, "steady", once)
    row = benchmark.bench_training(benchmark.variants(True)["correct"], benchmark.jnp.ones((1, 6, 6, 1)))
    assert row["step_s"] == 0.5
    assert min(row["compile_s"], row["temporary_mb"]) > 0
    ((before, after),) = steps
    # Adam's first step moves every number that has a gradient by the learning rate, 1e-3; weights round to 6e-8.
    moves = jax.tree.map(lambda old, new: float(abs(new - old).max()), before, after)
    assert jax.tree.leaves(moves) == pytest.approx([1e-3] * len(jax.tree.leaves(before)), rel=1e-3)


def test_original_is_judged_by_the_slowest_prediction_with_kept_spectra_and_by_its_output():
    ratios = {"faithful": {"within": 9.0, "before": 19.0}, "correct": {"within": 8.0, "before": 40.0}}
    judged = benchmark.judge_peer({"ratios": ratios, "relative_difference": 2e-7})
    assert judged["speed"]["ratio"] == 19
    assert judged["speed"]["ratio_within"] == 8
    assert not judged["speed"]["met"]
    assert judged["relative_difference"]["met"]
    ratios["faithful"]["before"] = 21.0
    other = benchmark.judge_peer({"ratios": ratios, "relative_difference": 2e-2})
    assert other["speed"]["met"]
    assert not other["relative_difference"]["met"]


def test_original_takes_turns_with_each_call(tiny, tmp_path, monkeypatch):
    """A stand-in for the original: a process that tells its tables' seconds, leaves ones, and times its calls."""
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(
        "import json, sys, numpy as np\n"
        "np.save(sys.argv[1], np.ones((1, 11, 6, 6)))\n"
        "print(json.dumps({'first_call_s': 3.0}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    print(json.dumps({'seconds': 2.0, 'peak_gib': 0.1, 'found': None}), flush=True)\n"
    )

    class StandIn(benchmark.Candidate):
        def __init__(self, name, command):
            super().__init__(name, [command[0], str(stand_in), command[-1]])

    monkeypatch.setattr(benchmark, "Candidate", StandIn)
    config = benchmark.variants(True)["faithful"]
    made = benchmark.bench_prediction("faithful", config, benchmark.jnp.ones((1, 6, 6, 1)))
    calls = {"within": lambda: time.sleep(0.01), "before": lambda: None}
    found = {"faithful": made._replace(output=np.full((1, 6, 6, 11), 1.5), calls=calls)}
    peer = benchmark.run_peer(tmp_path, config, benchmark.jnp.ones((1, 6, 6, 1)), found, 3)
    assert (peer["first_call_s"], peer["forward_s"], peer["relative_difference"]) == (3.0, 2.0, 0.5)
    assert peer["ratios"]["faithful"]["within"] <= 200 < peer["ratios"]["faithful"]["before"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "fast"], "no variant 'fast'; there are 'faithful'"),
        (["--variants", "correct", "--peer", "."], "not among those chosen"),
        (["--peer", "no-such-folder"], "no checkout of the original program"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_is(arguments, message, capsys):
    with pytest.raises(SystemExit) as status:
        benchmark.main(arguments)
    assert status.value.code == 2
    assert message in capsys.readouterr().err
