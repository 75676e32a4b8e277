"""Class tables of WoodScape and of SynWoodScape with merged classes: names, merging, colours and loss weights.

A table maps the numbers that the published masks hold (raw) to the classes that a network learns. Names, their order
and the weights are those of the program of HEAL-SWIN: its README, `synwoodscape_merge_classes.py` and the
`class_weights` of its run configurations. The raw numbers of the first eight SynWoodScape classes stand there too;
those of pedestrian (4), traffic sign (12), traffic light (18) and two-wheeler (21), and the names of the other raw
classes, do not: they are those of the class list that DeformableMamba's program keeps for the set
(`mmseg/datasets/synwoodscape.py`, which counts from 1 because void comes before it), and agree with the order of the
twelve classes. Where the published `seg_annotation_info.json` is at hand, `read_raw_classes` reads the names from it.

Colours are for pictures only and were chosen here.

References:
    Yogamani et al., "WoodScape", arXiv:1905.01489. Sekkat et al., "SynWoodScape", arXiv:2203.05056.
    Carlsson et al., "HEAL-SWIN: A Vision Transformer On The Sphere", arXiv:2307.07313, and its program.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Integer, Num, UInt8

from jaxgeo.data.array_files import read_json_file
from jaxgeo.errors import ConfigError, CorruptFileError, InputError, check_one_of

Version = Literal["woodscape", "synwoodscape", "synwoodscape_large", "synwoodscape_large_plus_AD"]


@dataclasses.dataclass(frozen=True)
class ClassTable:
    """Classes 0 ... num_classes - 1 and how raw numbers become them.

    Raises:
        ConfigError: lengths that do not fit, a raw number that becomes no class, or a void class that there is not.
    """

    names: tuple[str, ...]
    merging: tuple[int, ...]  # merging[raw] is the class
    colors: tuple[tuple[int, int, int], ...]  # red, green, blue, 0..255
    weights: tuple[float, ...] | None  # of the classes in the cross-entropy; None where none are published
    weights_source: str = ""
    void: int | None = None  # the class of everything that is of no other class; None where there is none

    def __post_init__(self):
        count = len(self.names)
        if len(self.colors) != count or (self.weights is not None and len(self.weights) != count):
            raise ConfigError(
                f"{count} class names need as many colours and weights, got {len(self.colors)} colours and "
                f"{'no' if self.weights is None else len(self.weights)} weights"
            )
        outside = sorted(set(self.merging) - set(range(count)))
        if outside:
            raise ConfigError(f"raw classes can only become 0 ... {count - 1}, got {outside}")
        if self.void is not None and not 0 <= self.void < count:
            raise ConfigError(f"the void class is one of 0 ... {count - 1}, or None, got {self.void}")

    @property
    def num_classes(self) -> int:
        """Of the merged classes."""
        return len(self.names)


class RawClasses(NamedTuple):
    """What a published `seg_annotation_info.json` says."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]  # red, green, blue, 0..255


_WOODSCAPE = {
    "void": (0, 0, 0),
    "road": (128, 64, 128),
    "lanemarks": (255, 255, 255),
    "curb": (244, 35, 232),
    "person": (220, 20, 60),
    "rider": (255, 120, 0),
    "vehicles": (0, 0, 200),
    "bicycle": (119, 11, 32),
    "motorcycle": (0, 160, 160),
    "traffic_sign": (220, 220, 0),
}
_SYNWOODSCAPE_RAW = {
    "void": (0, 0, 0),
    "building": (70, 70, 70),
    "fence": (190, 153, 153),
    "other": (55, 90, 80),
    "pedestrian": (220, 20, 60),
    "pole": (153, 153, 153),
    "road line": (255, 255, 255),
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "vegetation": (107, 142, 35),
    "four-wheeler vehicle": (0, 0, 200),
    "wall": (102, 102, 156),
    "traffic sign": (220, 220, 0),
    "sky": (70, 130, 180),
    "ground": (81, 0, 81),
    "bridge": (150, 100, 100),
    "rail track": (230, 150, 140),
    "guard rail": (180, 165, 180),
    "traffic light": (250, 170, 30),
    "water": (45, 60, 150),
    "terrain": (145, 170, 100),
    "two-wheeler vehicle": (119, 11, 32),
    "static": (110, 190, 160),
    "dynamic": (170, 120, 50),
    "ego-vehicle": (0, 160, 160),
}
_LARGE = ("void", "building", "road line", "road", "sidewalk", "four-wheeler vehicle", "sky", "ego-vehicle")
_LARGE_PLUS_AD = (*_LARGE, "pedestrian", "traffic sign", "traffic light", "two-wheeler vehicle")


def _merged(kept: Sequence[str], weights: tuple[float, ...], source: str) -> ClassTable:
    # Classes keep the order of their raw numbers; everything else is void.
    names = tuple(name for name in _SYNWOODSCAPE_RAW if name in kept)
    merging = tuple(names.index(name) if name in kept else 0 for name in _SYNWOODSCAPE_RAW)
    colors = tuple(_SYNWOODSCAPE_RAW[name] for name in names)
    return ClassTable(names, merging, colors, weights, source, void=names.index("void"))


_TABLES: dict[str, ClassTable] = {
    "woodscape": ClassTable(
        tuple(_WOODSCAPE),
        tuple(range(10)),
        tuple(_WOODSCAPE.values()),
        (
            0.34876218,
            0.44370147,
            0.89928661,
            1.1544441,
            1.3193849,
            1.7061983,
            0.73121492,
            1.2444171,
            1.6885881,
            2.364354,
        ),
        "HEAL-SWIN's program, swin_hp_woodscape_train_run_config.py",
        void=0,
    ),
    "synwoodscape": ClassTable(
        tuple(_SYNWOODSCAPE_RAW), tuple(range(25)), tuple(_SYNWOODSCAPE_RAW.values()), weights=None, void=0
    ),
    "synwoodscape_large": _merged(
        _LARGE,
        (0.62990112, 0.5111932, 0.88803174, 0.39921158, 0.75032628, 0.88420746, 0.67315916, 0.43332322),
        "HEAL-SWIN's program, swin_hp_synwoodscape_large_train_run_config.py",
    ),
    "synwoodscape_large_plus_AD": _merged(
        _LARGE_PLUS_AD,
        (
            0.64988532,
            0.5111932,
            1.18160048,
            0.88803174,
            0.39921158,
            0.75032628,
            0.88420746,
            1.91088558,
            0.67315916,
            2.34623503,
            1.67844596,
            0.43332322,
        ),
        "HEAL-SWIN's program, swin_hp_synwoodscape_large_plus_AD_train_run_config.py",
    ),
}


def class_table(version: Version) -> ClassTable:
    """The classes of one set.

    Raises:
        ConfigError: unknown version.
    """
    check_one_of("the version of WoodScape", version, Version)
    return _TABLES[version]


def merge_labels(
    raw: Integer[np.ndarray, "*pixel"], table: ClassTable, name: str = "labels"
) -> UInt8[np.ndarray, "*pixel"]:
    """Classes of raw numbers.

    Args:
        raw: numbers of a published mask.
        table: says what becomes of them.
        name: of the mask, for the error.

    Raises:
        InputError: numbers that the set does not have; says which, and in how many pixels.
    """
    merging = np.asarray(table.merging, np.uint8)
    unknown = (raw < 0) | (raw >= len(merging))
    if unknown.any():
        values, counts = np.unique(raw[unknown], return_counts=True)
        found = ", ".join(f"{v} in {c} pixels" for v, c in zip(values[:5].tolist(), counts[:5].tolist(), strict=True))
        more = f" and {len(values) - 5} others" if len(values) > 5 else ""
        raise InputError(
            f"{name} has classes that the set does not have: {found}{more}; its classes are 0 ... {len(merging) - 1}, "
            f"so is it a mask of another version, or a coloured one?"
        )
    return merging[raw]


def paint(labels: Integer[np.ndarray, "*pixel"], table: ClassTable) -> UInt8[np.ndarray, "*pixel 3"]:
    """A picture of classes in the table's colours; numbers beyond the classes (such as 255, unlabelled) become white.

    Raises:
        InputError: negative numbers.
    """
    if (labels < 0).any():
        raise InputError(f"classes must not be negative, got {int(labels.min())}")
    colors = np.asarray([*table.colors, (255, 255, 255)], np.uint8)
    return colors[np.minimum(labels, len(table.colors))]


def class_weights(shares: Num[np.ndarray, " class"]) -> Float[np.ndarray, " class"]:
    """Weights of the classes in the cross-entropy from their shares of the pixels: (100 share)^(-1/4).

    The published program only lists its weights; this rule gives all three lists back (their inverse sums to 100
    percent, in steps of a thousandth).

    Args:
        shares: non-negative, up to a common factor: counts of pixels will do.

    Raises:
        InputError: a class without pixels, whose weight would be infinite.
    """
    bad = np.flatnonzero(~(np.isfinite(shares) & (shares > 0)))
    if len(bad):
        raise InputError(
            f"every class needs pixels, or its weight would be infinite; {len(bad)} have none, the first is {bad[0]}"
        )
    return (100 * shares.astype(np.float64) / shares.sum()) ** -0.25


def read_raw_classes(path: Path) -> RawClasses:
    """Names and colours of the raw classes from a published `seg_annotation_info.json`.

    Keys are `class_names`, `class_colors`, and, where the colours are blue first, `color_scheme` "BGR".

    Raises:
        InputError: there is no such file.
        CorruptFileError: no JSON, or not of this form.
    """
    value = read_json_file(path, "names and colours of the classes")
    try:
        names = tuple(value["class_names"])
        rows = [tuple(row) for row in value["class_colors"]]
        scheme = value.get("color_scheme", "RGB")
    except (TypeError, KeyError, AttributeError) as error:
        raise CorruptFileError(
            f"{path} must be an object with lists class_names and class_colors ({type(error).__name__}: {error})"
        ) from error
    good = all(len(row) == 3 and all(type(v) is int and 0 <= v <= 255 for v in row) for row in rows)
    if not (names and all(isinstance(name, str) for name in names) and good and len(rows) == len(names)):
        raise CorruptFileError(
            f"{path} must name classes and give each one colour of three numbers 0..255, got {len(names)} names and "
            f"{len(rows)} colours"
        )
    if scheme not in ("RGB", "BGR"):
        raise CorruptFileError(f"{path} has the colour scheme {scheme!r}; RGB and BGR are known")
    return RawClasses(names, tuple(row if scheme == "RGB" else row[::-1] for row in rows))
