"""Equirectangular panoramas of Stanford 2D-3D-S from the published folders, one example at a time.

    area_1/pano/rgb/camera_<id>_<room>_frame_equirectangular_domain_rgb.png              8-bit colour
    area_1/pano/semantic/camera_<id>_<room>_frame_equirectangular_domain_semantic.png    8-bit colour, see below
    area_1/pano/depth/camera_<id>_<room>_frame_equirectangular_domain_depth.png          16 bits, 1/512 m
    assets/semantic_labels.json                                                          list of instance names

The three bytes of a semantic pixel are one number, red first: the place of the instance in the list, whose names begin
with the class (`chair_2_office_11_3`). The colour 0D0D0D stands for missing data. Depth is the distance from the
camera, with 65535 where there is none. Rows run from the zenith to the nadir, columns once around; the image is twice
as wide as high.

References:
    Armeni, Sax, Zamir, Savarese, "Joint 2D-3D-Semantic Data for Indoor Scene Understanding", arXiv:1702.01105, and the
    description that comes with the set.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from jaxgeo.data.array_files import read_json_file
from jaxgeo.data.picture_files import read_color_png, read_depth_png
from jaxgeo.data.root import DATA_VARIABLE, StrPath, data_root
from jaxgeo.errors import ConfigError, CorruptFileError, InputError

PanoramaPart = Literal["rgb", "semantic", "depth"]

CLASS_NAMES = (
    "ceiling",
    "floor",
    "wall",
    "beam",
    "column",
    "window",
    "door",
    "table",
    "chair",
    "sofa",
    "bookcase",
    "board",
    "clutter",
)
UNLABELLED = 255
NO_INSTANCE = -1
DEPTH_STEPS = 512  # to a metre
NO_DEPTH = 65535
# The three published ways to hold areas back: (training, test).
AREA_FOLDS = (
    (("area_1", "area_2", "area_3", "area_4", "area_6"), ("area_5a", "area_5b")),
    (("area_1", "area_3", "area_5a", "area_5b", "area_6"), ("area_2", "area_4")),
    (("area_2", "area_4", "area_5a", "area_5b"), ("area_1", "area_3", "area_6")),
)

_FOLDER = "2d3ds"
_LABEL_FILE = "assets/semantic_labels.json"
_MISSING = 0x0D0D0D
_UNKNOWN = "<UNK>"
_STEM = re.compile(r"(camera_.+)_frame_equirectangular_domain_(rgb|semantic|depth)")


class Panorama(NamedTuple):
    """One panorama and what was asked for beside it; None stands for what was not."""

    name: str  # area/camera_<id>_<room>
    image: UInt8[np.ndarray, "row column 3"]
    labels: UInt8[np.ndarray, "row column"] | None  # CLASS_NAMES, or 255 where none is known
    instances: Int32[np.ndarray, "row column"] | None  # places in the list of instances, or -1
    depth: Float32[np.ndarray, "row column"] | None  # metres; infinite where missing


@dataclasses.dataclass(frozen=True)
class PanoramaSet:
    """Panoramas by index, each read when it is asked for; made by `open_panoramas`."""

    folder: Path
    names: tuple[str, ...]
    parts: tuple[PanoramaPart, ...]
    instance_names: tuple[str, ...]  # of the set's list; empty where the semantic pictures are not read

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Panorama:
        return self.read(self.names[index])

    def __iter__(self) -> Iterator[Panorama]:
        return (self.read(name) for name in self.names)

    def read(self, name: str) -> Panorama:
        """One panorama by its name.

        Raises:
            InputError: no such panorama, or instances that the list does not have.
            CorruptFileError: a damaged picture, of another kind, or of another size.
            ToolMissingError: Pillow is not installed.
        """
        if name not in self.names:
            raise InputError(f"there is no {name!r} among the {len(self)} panoramas of {self.folder}")
        path = _path(self.folder, name, "rgb")
        image = read_color_png(path)
        rows, columns = image.shape[:2]
        if columns != 2 * rows:
            raise CorruptFileError(
                f"{path} has {rows} rows and {columns} columns; an equirectangular panorama is twice as wide as high"
            )
        labels = instances = depth = None
        if "semantic" in self.parts:
            instances = self._read_instances(name, (rows, columns))
            # Place -1, no instance, takes the last entry.
            labels = np.append(instance_classes(self.instance_names), np.uint8(UNLABELLED))[instances]
        if "depth" in self.parts:
            path = _path(self.folder, name, "depth")
            stored = read_depth_png(path)
            _check_size(stored.shape, (rows, columns), path)
            depth = np.where(stored == NO_DEPTH, np.float32(np.inf), stored.astype(np.float32) / DEPTH_STEPS)
        return Panorama(name, image, labels, instances, depth)

    def _read_instances(self, name: str, size: tuple[int, int]) -> np.ndarray:
        path = _path(self.folder, name, "semantic")
        colors = read_color_png(path, "semantic labels").astype(np.int32)
        _check_size(colors.shape[:2], size, path)
        index = colors[..., 0] * 65536 + colors[..., 1] * 256 + colors[..., 2]
        index[index == _MISSING] = NO_INSTANCE
        bad = index >= len(self.instance_names)
        if bad.any():
            first = int(index[bad][0])
            raise InputError(
                f"{path} has {int(bad.sum())} pixels of instances that {self.folder / _LABEL_FILE} does not list, the "
                f"first is {first} of {len(self.instance_names)}; picture and list must be of one release"
            )
        return index


def open_panoramas(
    folder: StrPath | None = None,
    *,
    areas: Sequence[str] | None = None,
    parts: Sequence[PanoramaPart] = ("rgb", "semantic", "depth"),
) -> PanoramaSet:
    """The panoramas of some areas, sorted by area and name; nothing but names and the list of instances is read.

    Args:
        folder: that holds area_1 ... area_6 and assets; by default `2d3ds` in the folder named by JAXGEO_DATA.
        areas: by default all that are there; `AREA_FOLDS` has the published choices.
        parts: what to read beside the picture in colours; each must be there for every panorama.

    Raises:
        ConfigError: an unknown part, or no folder is named.
        InputError: no panoramas, some without one of the parts, or parts without their picture in colours.
        CorruptFileError: the list of instances is damaged or names other classes.
    """
    unknown = [part for part in parts if part not in get_args(PanoramaPart)]
    if unknown:
        raise ConfigError(f"unknown part {unknown[0]!r} of panoramas; there are {', '.join(get_args(PanoramaPart))}")
    if folder is None:
        root = data_root()
        if root is None:
            raise ConfigError(
                f"panoramas are read from files: give their folder, or set {DATA_VARIABLE} to that which has {_FOLDER}/"
            )
        folder = root / _FOLDER
    folder = Path(folder)
    if areas is None:
        areas = sorted(path.parent.name for path in folder.glob("area_*/pano"))
    names = tuple(name for area in areas for name in _names(folder, area, "rgb"))
    if not names:
        raise InputError(
            f"{folder} has no panoramas; the published layout is area_1/pano/rgb/camera_..._domain_rgb.png"
        )
    for part in parts:
        missing = [name for name in names if not _path(folder, name, part).is_file()]
        if missing:
            raise InputError(
                f"{len(missing)} of {len(names)} panoramas have no {part}, the first needs "
                f"{_path(folder, missing[0], part)}; complete the folder or leave {part!r} out of the parts"
            )
        strays = [name for area in areas for name in _names(folder, area, part) if name not in names]
        if strays:
            raise InputError(
                f"{len(strays)} panoramas have {part} but no picture in colours, the first needs "
                f"{_path(folder, strays[0], 'rgb')}; complete the folder or take those files out"
            )
    instances = read_instance_names(folder / _LABEL_FILE) if "semantic" in parts else ()
    return PanoramaSet(folder, names, ("rgb", *(part for part in parts if part != "rgb")), instances)


def read_instance_names(path: Path) -> tuple[str, ...]:
    """The published list of instances.

    Raises:
        InputError: there is no such file.
        CorruptFileError: no JSON list of texts, or a name of an unknown class.
    """
    value = read_json_file(path, "list of instances")
    if not (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        raise CorruptFileError(f"{path} must be a JSON list of texts such as 'chair_2_office_11_3'")
    try:
        instance_classes(value)
    except InputError as error:
        raise CorruptFileError(f"{path}: {error}") from error
    return tuple(value)


def instance_classes(names: Sequence[str]) -> UInt8[np.ndarray, " instance"]:
    """The class of each instance, by what its name begins with; 255 for `<UNK>`.

    Raises:
        InputError: another class.
    """
    numbers = {name: i for i, name in enumerate(CLASS_NAMES)} | {_UNKNOWN: UNLABELLED}
    words = [name.split("_")[0] for name in names]
    strange = [(i, word) for i, word in enumerate(words) if word not in numbers]
    if strange:
        raise InputError(
            f"{len(strange)} of {len(names)} instances are of no known class, the first, at place {strange[0][0]}, is "
            f"{names[strange[0][0]]!r}; classes are {', '.join(CLASS_NAMES)} and {_UNKNOWN}"
        )
    return np.array([numbers[word] for word in words], np.uint8)


def _names(folder: Path, area: str, part: str) -> list[str]:
    place = folder / area / "pano" / part
    if not place.is_dir():
        raise InputError(f"panoramas of {area} are looked for in {place}, which is no folder")
    found = [_STEM.fullmatch(path.stem) for path in place.glob("*.png")]
    return sorted(f"{area}/{match[1]}" for match in found if match and match[2] == part)


def _path(folder: Path, name: str, part: str) -> Path:
    area, stem = name.split("/")
    return folder / area / "pano" / part / f"{stem}_frame_equirectangular_domain_{part}.png"


def _check_size(found: tuple[int, ...], image: tuple[int, int], path: Path) -> None:
    if found != image:
        raise CorruptFileError(f"{path} is of size {found}, but its picture in colours is {image[0]} x {image[1]}")
