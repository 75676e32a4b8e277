"""Cityscapes from its published folders, with fine labels merged to four classes of a drive.

    leftImg8bit/train/aachen/aachen_000000_000019_leftImg8bit.png              8-bit colour, 2048 x 1024
    gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png               8-bit numbers of the classes

Opening lists the folders and tells at once what is missing; reading a name reads that example's files alone and checks
them. The labels of the published test part are dummies, so that train and val can be opened only.

The numbers are those of the published `labels.py`: road is 7, person 24, car 26. Everything else is background,
riders, trucks and buses included, and by default also what the set itself leaves out of its scores (`void="ignored"`
makes that 255). At 240 x 152 pictures are squeezed to 0.79 of their width, or, with `cut=True`, columns left and right
are cut off first; which of the two the paper did is not restated here.

References:
    Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", arXiv:1604.01685.
    Ghielmetti et al., arXiv:2205.07690 (the four classes, the size).
"""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from jaxgeo.data.driving import COLUMNS, ROWS, UNKNOWN, SegmentationSet, resize_area, resize_nearest
from jaxgeo.data.picture_files import read_color_png, read_index_png
from jaxgeo.data.root import StrPath
from jaxgeo.errors import CorruptFileError, InputError, check_one_of

Part = Literal["train", "val"]
Void = Literal["background", "ignored"]

NUM_IDS = 34  # 0 ... 33; the licence plate is -1, stored as 255
ROAD, PERSON, CAR = 7, 24, 26
# What the published evaluation leaves out.
IGNORED_IDS = (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30)
_IMAGE, _LABEL = "_leftImg8bit.png", "_gtFine_labelIds.png"


def driving_labels(ids: UInt8[np.ndarray, "*shape"], void: Void = "background") -> UInt8[np.ndarray, "*shape"]:
    """Numbers of the published classes as 0 background, 1 road, 2 car, 3 person.

    Args:
        ids: 0 ... 33, or 255 for a licence plate.
        void: what the published evaluation leaves out becomes background, or 255.

    Raises:
        ConfigError: unknown `void`.
        InputError: another number.
    """
    check_one_of("void", void, Void)
    bad = (ids >= NUM_IDS) & (ids != 255)
    if bad.any():
        raise InputError(
            f"classes of Cityscapes are 0 ... {NUM_IDS - 1}, or 255 for a licence plate, got {int(ids[bad][0])}; "
            "labelIds are needed, not instanceIds or colours"
        )
    table = np.zeros(256, np.uint8)
    if void == "ignored":
        table[[*IGNORED_IDS, 255]] = UNKNOWN
    table[[ROAD, CAR, PERSON]] = 1, 2, 3
    return table[ids]


@dataclasses.dataclass(frozen=True)
class CityscapesSet:
    """Examples by name, each read when it is asked for; made by `open_cityscapes`."""

    folder: Path
    part: Part
    names: tuple[str, ...]  # "aachen/aachen_000000_000019"
    void: Void

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> tuple[UInt8[np.ndarray, "row column 3"], UInt8[np.ndarray, "row column"]]:
        """Picture and its four classes, at the published size.

        Raises:
            InputError: no such example.
            CorruptFileError: a damaged file, sizes that differ, or a number of no class.
        """
        if name not in self.names:
            raise InputError(f"there is no {name!r} among the {len(self)} examples of {self.folder}, {self.part}")
        image = read_color_png(_path(self.folder, self.part, name, _IMAGE))
        path = _path(self.folder, self.part, name, _LABEL)
        ids = read_index_png(path)
        if ids.shape != image.shape[:2]:
            raise CorruptFileError(f"{path} is of shape {ids.shape}, but its picture of {image.shape[:2]}")
        try:
            return image, driving_labels(ids, self.void)
        except InputError as error:
            raise CorruptFileError(f"{path}: {error}") from error

    def load(
        self, rows: int = ROWS, columns: int = COLUMNS, *, names: tuple[str, ...] | None = None, cut: bool = False
    ) -> SegmentationSet:
        """Examples at another size: colours averaged over areas, labels from the nearest pixel.

        Args:
            rows: of the result.
            columns: of the result.
            names: which; by default all.
            cut: keep the shape of things and cut off what stands over, equally on both sides.
        """
        names = self.names if names is None else names
        images, labels = [], []
        for name in names:
            image, classes = self.read(name)
            window = _window(classes.shape, rows, columns) if cut else (slice(None), slice(None))
            images.append(resize_area(image[window], rows, columns))
            labels.append(resize_nearest(classes[window], rows, columns))
        return SegmentationSet(names, np.stack(images), np.stack(labels))


def _window(shape: tuple[int, ...], rows: int, columns: int) -> tuple[slice, slice]:
    """The largest part in the middle with the sides' ratio of the result."""
    height = min(shape[0], shape[1] * rows // columns)
    width = min(shape[1], shape[0] * columns // rows)
    top, left = (shape[0] - height) // 2, (shape[1] - width) // 2
    return slice(top, top + height), slice(left, left + width)


def open_cityscapes(folder: StrPath, part: Part = "train", *, void: Void = "background") -> CityscapesSet:
    """The examples of one part, sorted by name; nothing but names is read.

    Raises:
        ConfigError: unknown part or `void`.
        InputError: there are no pictures, or pictures without labels.
    """
    check_one_of("part", part, Part)
    check_one_of("void", void, Void)
    folder = Path(folder)
    root = folder / "leftImg8bit" / part
    names = sorted(f"{path.parent.name}/{path.name.removesuffix(_IMAGE)}" for path in root.glob(f"*/*{_IMAGE}"))
    if not names:
        raise InputError(
            f"{root} has no pictures such as aachen/aachen_000000_000019{_IMAGE}; unpack leftImg8bit_trainvaltest.zip "
            "and gtFine_trainvaltest.zip into one folder"
        )
    missing = [name for name in names if not _path(folder, part, name, _LABEL).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} pictures have no labels, the first is {missing[0]}: "
            f"{_path(folder, part, missing[0], _LABEL)} is needed"
        )
    return CityscapesSet(folder, part, tuple(names), void)


def _path(folder: Path, part: str, name: str, suffix: str) -> Path:
    kind = "leftImg8bit" if suffix == _IMAGE else "gtFine"
    return folder / kind / part / f"{name}{suffix}"
