"""CamVid: frames of drives through Cambridge, and the class of each pixel.

`load_camvid` reads the packed file `camvid_240x152.npz`: 152 rows, 240 columns, the split of SegNet, its eleven classes
and one for what is unlabelled. For each part s of train, val and test it holds `jpeg_s` (bytes of all pictures),
`off_s` (where each begins, and the end), `y_s` (image, row, column) and `name_s`. `open_camvid` reads the published
folders:

    701_StillsRaw_full/0001TP_006690.png          frames, 960 x 720
    LabeledApproved_full/0001TP_006690_L.png      colours of 32 classes

Neighbouring frames look alike: parts are of whole sequences, never at random.

References:
    Brostow, Fauqueur, Cipolla, "Semantic object classes in video: A high-definition ground truth database", Pattern
    Recognition Letters 30 (2009).
    Badrinarayanan, Kendall, Cipolla, "SegNet", arXiv:1511.00561 (the eleven classes and the split).
"""

import dataclasses
import io
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from jaxgeo.data.array_files import parse_npz, read_file
from jaxgeo.data.driving import UNKNOWN, SegmentationSet, merge_classes, resize_area, resize_nearest
from jaxgeo.data.picture_files import read_color_png
from jaxgeo.data.root import StrPath, named_file
from jaxgeo.errors import CorruptFileError, InputError, ToolMissingError, check_one_of

Part = Literal["train", "val", "test"]
Classes = Literal["segnet", "driving"]

FILE = "camvid_240x152.npz"
SEGNET_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
_UNLABELLED = len(SEGNET_CLASSES)
# A bicyclist is labelled with the bicycle, so that rider and pedestrian cannot be told apart from it: all are persons.
_DRIVING = np.array([0, 0, 0, 1, 0, 0, 0, 0, 2, 3, 3, UNKNOWN], np.uint8)
_SEGNET = np.array([*range(_UNLABELLED), UNKNOWN], np.uint8)
# Colour and class of SegNet for each of the 32 published classes.
COLORS: dict[str, tuple[tuple[int, int, int], int]] = {
    "Animal": ((64, 128, 64), 9),
    "Archway": ((192, 0, 128), 1),
    "Bicyclist": ((0, 128, 192), 10),
    "Bridge": ((0, 128, 64), 1),
    "Building": ((128, 0, 0), 1),
    "Car": ((64, 0, 128), 8),
    "CartLuggagePram": ((64, 0, 192), 9),
    "Child": ((192, 128, 64), 9),
    "Column_Pole": ((192, 192, 128), 2),
    "Fence": ((64, 64, 128), 7),
    "LaneMkgsDriv": ((128, 0, 192), 3),
    "LaneMkgsNonDriv": ((192, 0, 64), 3),
    "Misc_Text": ((128, 128, 64), 6),
    "MotorcycleScooter": ((192, 0, 192), 10),
    "OtherMoving": ((128, 64, 64), 8),
    "ParkingBlock": ((64, 192, 128), 4),
    "Pedestrian": ((64, 64, 0), 9),
    "Road": ((128, 64, 128), 3),
    "RoadShoulder": ((128, 128, 192), 4),
    "Sidewalk": ((0, 0, 192), 4),
    "SignSymbol": ((192, 128, 128), 6),
    "Sky": ((128, 128, 128), 0),
    "SUVPickupTruck": ((64, 128, 192), 8),
    "TrafficCone": ((0, 0, 64), 2),
    "TrafficLight": ((0, 64, 64), 6),
    "Train": ((192, 64, 128), 8),
    "Tree": ((128, 128, 0), 5),
    "Truck_Bus": ((192, 128, 192), 8),
    "Tunnel": ((64, 0, 64), 1),
    "VegetationMisc": ((192, 192, 0), 5),
    "Void": ((0, 0, 0), _UNLABELLED),
    "Wall": ((64, 192, 0), 1),
}
_ADVICE = "an unbroken copy of the file is needed"


def load_camvid(part: Part, root: StrPath | None = None, *, classes: Classes = "driving") -> SegmentationSet:
    """All pictures of one part of the packed file.

    Args:
        part: of SegNet's split.
        root: folder of the file; by default the environment variable JAXGEO_DATA.
        classes: `segnet`, the eleven; `driving`, the four of `jaxgeo.data.driving`. What is unlabelled is 255.

    Raises:
        ConfigError: unknown part or classes, or no folder is named.
        InputError: the file is absent.
        CorruptFileError: it is damaged, or of another content.
        ToolMissingError: Pillow is not installed.
    """
    check_one_of("part", part, Part)
    table = _table(classes)
    path = named_file("CamVid pictures", FILE, root)
    names = [f"{kind}_{part}" for kind in ("jpeg", "off", "y", "name")]
    content, offsets, labels, stems = parse_npz(read_file(path, "CamVid pictures"), path, names).values()
    if labels.ndim != 3 or labels.dtype != np.uint8 or labels.max(initial=0) > _UNLABELLED:
        raise CorruptFileError(
            f"{path} has labels of shape {labels.shape} and {labels.dtype} up to {labels.max(initial=0)}, expected "
            f"bytes (image, row, column) up to {_UNLABELLED}; {_ADVICE}"
        )
    whole = offsets.astype(np.int64)
    if (
        whole.shape != (len(labels) + 1,)
        or stems.shape != (len(labels),)
        or content.dtype != np.uint8
        or (whole[0], whole[-1]) != (0, content.size)
        or (np.diff(whole) <= 0).any()
    ):
        raise CorruptFileError(
            f"{path} has off_{part} that do not cut its {content.size} bytes into {len(labels)} pictures; {_ADVICE}"
        )
    images = np.empty((*labels.shape, 3), np.uint8)
    for k in range(len(images)):
        images[k] = _decode(content[whole[k] : whole[k + 1]].tobytes(), labels.shape[1:], f"{path}: {part} image {k}")
    return SegmentationSet(tuple(map(str, stems)), images, merge_classes(labels, table))


def _decode(content: bytes, size: tuple[int, ...], what: str) -> np.ndarray:
    try:
        from PIL import Image
    except ImportError as error:
        raise ToolMissingError(f"{what} is a JPEG picture, which Pillow decodes: pip install pillow") from error
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as picture:
            image = np.asarray(picture)
    except (OSError, SyntaxError, ValueError) as error:
        raise CorruptFileError(f"{what} is no whole JPEG ({error}); {_ADVICE}") from error
    if image.shape != (*size, 3):
        raise CorruptFileError(f"{what} is of shape {image.shape}, expected {(*size, 3)}; {_ADVICE}")
    return image


@dataclasses.dataclass(frozen=True)
class CamVidFolder:
    """Frames of the published folders, each read when it is asked for; made by `open_camvid`."""

    folder: Path
    names: tuple[str, ...]
    classes: Classes

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> tuple[UInt8[np.ndarray, "row column 3"], UInt8[np.ndarray, "row column"]]:
        """Frame and classes, at the published size.

        Raises:
            InputError: no such frame.
            CorruptFileError: a damaged file, sizes that differ, or a colour of no class.
        """
        if name not in self.names:
            raise InputError(f"there is no {name!r} among the {len(self)} labelled frames of {self.folder}")
        image = read_color_png(_frame(self.folder, name))
        path = _label(self.folder, name)
        colors = read_color_png(path, "labels")
        if colors.shape != image.shape:
            raise CorruptFileError(f"{path} is of shape {colors.shape}, but its frame of {image.shape}")
        return image, merge_classes(classes_of_colors(colors, str(path)), _table(self.classes))

    def load(self, rows: int, columns: int, names: tuple[str, ...] | None = None) -> SegmentationSet:
        """Frames at another size: colours averaged over areas, labels from the nearest pixel."""
        names = self.names if names is None else names
        pairs = [self.read(name) for name in names]
        images = [resize_area(image, rows, columns) for image, _ in pairs]
        return SegmentationSet(names, np.stack(images), np.stack([resize_nearest(y, rows, columns) for _, y in pairs]))


def open_camvid(folder: StrPath, *, classes: Classes = "driving") -> CamVidFolder:
    """The labelled frames of the published folders, sorted by name; nothing but names is read.

    Raises:
        ConfigError: unknown classes.
        InputError: there are no labels, or labels without a frame.
    """
    folder = Path(folder)
    _table(classes)
    found = sorted(path.stem for path in (folder / "LabeledApproved_full").glob("*_L.png"))
    names = tuple(stem.removesuffix("_L") for stem in found)
    if not names:
        raise InputError(
            f"{folder / 'LabeledApproved_full'} has no labels such as 0001TP_006690_L.png; unpack the published files"
        )
    missing = [name for name in names if not _frame(folder, name).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} labels have no frame, the first is {missing[0]}: "
            f"{_frame(folder, missing[0])} is needed"
        )
    return CamVidFolder(folder, names, classes)


def classes_of_colors(colors: UInt8[np.ndarray, "row column 3"], where: str) -> UInt8[np.ndarray, "row column"]:
    """SegNet's class of each colour, 11 for Void.

    Raises:
        CorruptFileError: a colour of no class; names it.
    """
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for (red, green, blue), label in COLORS.values():
        table[(red << 16) | (green << 8) | blue] = label
    wide = colors.astype(np.int32)
    labels = table[(wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]]
    bad = labels == UNKNOWN
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise CorruptFileError(
            f"{where} has {int(bad.sum())} pixels of a colour that is no class, the first "
            f"{tuple(int(n) for n in colors[row, column])} at row {row}, column {column}; was it resized or stored as "
            "JPEG?"
        )
    return labels


def _frame(folder: Path, name: str) -> Path:
    return folder / "701_StillsRaw_full" / f"{name}.png"


def _label(folder: Path, name: str) -> Path:
    return folder / "LabeledApproved_full" / f"{name}_L.png"


def _table(classes: str) -> np.ndarray:
    check_one_of("classes", classes, Classes)
    return _SEGNET if classes == "segnet" else _DRIVING
