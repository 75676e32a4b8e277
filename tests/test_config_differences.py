"""The first setting in which two configurations differ, in parts and outside of them; and settings of NumPy as JSON."""

import dataclasses

import numpy as np

from jaxgeo.config_files import first_difference, to_dict


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


def test_numbers_of_numpy_are_written_as_those_of_python():
    assert to_dict(Whole(Part(np.float32(0.5)), np.int64(3))) == {"part": {"rate": 0.5}, "seed": 3}
