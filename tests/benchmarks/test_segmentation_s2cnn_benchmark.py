"""The benchmark of the segmentation S2CNN on a network of one layer: its table, its bars, its last line."""

import json

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

    def run_peer(folder, config, params, images, ours):
        seen.update(config=config, shape=ours.shape)
        return {"first_call_s": 2e6, "forward_s": 1e6, "relative_difference": 3e-7}

    monkeypatch.setattr(benchmark, "run_peer", run_peer)
    arguments = ["--quick", "--no-training", "--variants", "faithful", "--peer", checkout(tmp_path)]
    assert benchmark.main(arguments) == 0
    report = last_line(capsys)
    assert report["rows"][0]["variant"] == "faithful"
    assert report["rows"][0]["uncached_forward_s"] > 0
    assert seen["config"].mode == "faithful"
    assert seen["shape"] == (1, 6, 6, 11)
    assert set(report["bars"]) == {"tables_s", "speed", "relative_difference"}
    assert report["met"]


def test_training_step_is_timed_too(tiny):
    row = benchmark.bench_training(benchmark.variants(True)["correct"], benchmark.jnp.ones((1, 6, 6, 1)))
    assert row["step_s"] > 0


def test_original_is_judged_against_calls_that_compute_spectra_and_by_its_output():
    rows = [{"forward_s": 0.1, "uncached_forward_s": 1.0}, {"forward_s": 0.5, "uncached_forward_s": 0.6}]
    fast = benchmark.judge_peer({"forward_s": 19.0, "relative_difference": 2e-7}, rows)
    assert fast["speed"]["ratio"] == 19
    assert fast["speed"]["ratio_cached"] == 38
    assert not fast["speed"]["met"]
    assert fast["relative_difference"]["met"]
    other = benchmark.judge_peer({"forward_s": 21.0, "relative_difference": 2e-2}, rows)
    assert other["speed"]["met"]
    assert not other["relative_difference"]["met"]


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
