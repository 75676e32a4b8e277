"""In which setting two configurations differ; settings of NumPy as JSON; settings by the names of older files."""

import dataclasses

import numpy as np
import pytest

from jaxgeo.config_files import check_same_settings, first_difference, from_dict, to_dict
from jaxgeo.dense_prediction.config import DenseConfig
from jaxgeo.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Part:
    """Settings that belong together."""

    rate: float = 0.1


@dataclasses.dataclass(frozen=True)
class Whole:
    """A part, and a setting that belongs to none."""

    part: Part = dataclasses.field(default_factory=Part)
    seed: int = 0


def test_a_difference_in_a_part_is_named_with_it():
    assert first_difference(Whole(), Whole(Part(0.2))) == ("part.rate", 0.1, 0.2)


def test_a_difference_outside_of_parts_is_named_alone():
    assert first_difference(Whole(), Whole(seed=3)) == ("seed", 0, 3)


def test_equal_configurations_and_allowed_differences_are_none():
    assert first_difference(Whole(), Whole()) is None
    assert first_difference(Whole(), Whole(Part(0.2), seed=3), {"part", "seed"}) is None


def test_what_was_begun_goes_on_with_the_same_settings_alone(tmp_path):
    check_same_settings(tmp_path, Whole(), Whole(Part(0.2)), {"part"})
    message = rf"{tmp_path.name} was begun with part\.rate = 0\.1, not 0\.2; go on with that, or begin another"
    for before, now in [(Whole(), Whole(Part(0.2))), (to_dict(Whole()), to_dict(Whole(Part(0.2))))]:
        with pytest.raises(ConfigError, match=message):
            check_same_settings(tmp_path, before, now)
    with pytest.raises(ConfigError, match=r"begun with part = None, not \{.rate.: 0\.1\}"):
        check_same_settings(tmp_path, {"part": None}, {"part": {"rate": 0.1}})


def test_numbers_of_numpy_are_written_as_those_of_python():
    assert to_dict(Whole(Part(np.float32(0.5)), np.int64(3))) == {"part": {"rate": 0.5}, "seed": 3}


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ("dropout", "dropout_rate"),
        ("attention_dropout", "attention_dropout_rate"),
        ("stochastic_depth", "stochastic_depth_rate"),
        ("context_drop", "context_dropout_rate"),
        ("bfloat16", "compute_dtype"),
    ],
)
def test_a_former_name_is_refused_with_the_present_one(former, present):
    message = rf"unknown key network\.{former} \(value 0\.1\).*it is called network\.{present} now"
    with pytest.raises(ConfigError, match=message):
        from_dict(DenseConfig, {"network": {former: 0.1}})


def test_a_type_of_numbers_is_read_by_its_name():
    read = {kind: from_dict(DenseConfig, {"network": {"compute_dtype": kind}}).network for kind in (None, "bfloat16")}
    assert [network.compute_dtype for network in read.values()] == list(read)
    with pytest.raises(ConfigError, match=r"network\.compute_dtype must be .*'bfloat16'.*got 'float8'"):
        from_dict(DenseConfig, {"network": {"compute_dtype": "float8"}})
