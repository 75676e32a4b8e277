"""Every benchmark as a command: its own name in its help, arguments that a caller gives, and a status."""

import importlib
import inspect
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import emulator, resnet_fpga, small_convolutions, toy_ensemble

ROOT = Path(emulator.__file__).parent
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts)
    for path in ROOT.rglob("*.py")
    if "argparse.ArgumentParser(" in path.read_text()
)


@pytest.mark.filterwarnings("ignore")  # of the peers that some import
@pytest.mark.parametrize("name", COMMANDS)
def test_a_benchmark_is_a_command_that_takes_arguments_and_returns_a_status(name, capsys):
    main = importlib.import_module(name).main
    assert inspect.signature(main).return_annotation is int
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    assert capsys.readouterr().out.split()[:4] == ["usage:", "python", "-m", name]


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_a_small_resnet_goes_to_hardware_exactly(capsys):
    assert resnet_fpga.main(["--depth", "8", "--filters", "2", "--size", "8", "--reuse", "4"]) == 0
    found = last_line(capsys)
    assert found["exact"]
    # A new picture may enter before the last one has left.
    assert 0 < found["interval_cycles"] <= found["latency_cycles"]
    assert (found["strategy"], found["reuse_factor"]) == ("Resource", 4)


def test_small_convolutions_step_alike_with_both_programs(capsys):
    assert small_convolutions.main(["--networks", "svhn", "--svhn-batch", "1", "--repeats", "1"]) == 0
    (row,) = last_line(capsys)["rows"]
    assert row["network"] == "SVHN"
    assert row["loss_difference"] < 1e-5  # sums of float32 in another order


def test_our_side_of_the_toy_learns():
    """The peers need PyTorch, which only the benchmarks' environment has."""
    ours = toy_ensemble.Ours(members=2, epochs=1)
    first = ours.run()
    assert ours.run() < first


def test_real_pictures_come_before_random_ones(tmp_path):
    pictures = np.random.default_rng(1).normal(size=(3, 32, 32, 3))
    np.savez(tmp_path / "svhn_100.npz", x_standardised=pictures)
    inputs = emulator.inputs_of((32, 32, 3), 5, tmp_path)
    np.testing.assert_array_equal(inputs[:3], pictures.astype(np.float32))
    np.testing.assert_array_equal(inputs[3:], emulator.inputs_of((32, 32, 3), 2, None))
    assert emulator.inputs_of((32, 32, 3), 2, tmp_path).shape == (2, 32, 32, 3)
