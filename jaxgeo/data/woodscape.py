"""WoodScape and SynWoodScape from their published folders, one example at a time.

A folder holds, one file for each image and known by its stem (`00000_FV`; FV, RV, MVL or MVR is the camera):

    rgb_images/rgb_images/00000_FV.png                                     8-bit colour
    semantic_annotations/semantic_annotations/gtLabels/00000_FV.png        8-bit numbers of the classes
    calibration/calibration/00000_FV.json                                  the camera
    depth_maps/raw_data/00000_FV.npy                                       floats, metres (SynWoodScape only)

A doubled folder (as the archives unpack) may also stand once. Opening lists the folders and tells at once what is
missing; reading an index reads that example's files alone and checks them. Names go to `jaxgeo.data.splits`.

Examples can be resized as they are read: colours by the mean of the area under each pixel, classes and depths by the
nearest pixel, the camera with them. The published flat networks take 640 x 768 of the stored 966 x 1280 pixels.

The depth of SynWoodScape's background is stored as 1000 m and infinite here, unless it is to be kept as stored; the
scalings of `jaxgeo.data.depth_scaling` take either.

References:
    Yogamani et al., "WoodScape: A multi-task, multi-camera fisheye dataset for autonomous driving", arXiv:1905.01489.
    Sekkat et al., "SynWoodScape: Synthetic Surround-view Fisheye Camera Dataset for Autonomous Driving",
    arXiv:2203.05056. The layout is that which the program of HEAL-SWIN (arXiv:2307.07313) reads.
"""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float32, UInt8

from jaxgeo.data.array_files import read_json_file, read_npy
from jaxgeo.data.depth_scaling import mask_background
from jaxgeo.data.driving import resize_area, resize_nearest
from jaxgeo.data.picture_files import read_color_png, read_index_png
from jaxgeo.data.root import DATA_VARIABLE, StrPath, data_root
from jaxgeo.data.woodscape_classes import ClassTable, Version, class_table, merge_labels, read_raw_classes
from jaxgeo.errors import ConfigError, CorruptFileError, InputError
from jaxgeo.grids.cameras import FisheyeCamera, read_calibration, resize_camera

CameraName = Literal["FV", "RV", "MVL", "MVR"]  # front, rear, mirror left, mirror right
Part = Literal["image", "labels", "calibration", "depth"]

_FOLDERS: dict[str, tuple[str, ...]] = {
    "image": ("rgb_images/rgb_images", "rgb_images"),
    "labels": ("semantic_annotations/semantic_annotations/gtLabels", "semantic_annotations/gtLabels"),
    "calibration": ("calibration/calibration", "calibration"),
    "depth": ("depth_maps/raw_data",),
}
_SUFFIXES = {"image": ".png", "labels": ".png", "calibration": ".json", "depth": ".npy"}
_CLASS_FILE = "semantic_annotations/seg_annotation_info.json"
_CAMERA = re.compile(r"(?:^|_)(FV|RV|MVL|MVR)(?:_|$)")


class FisheyeExample(NamedTuple):
    """One image and what was asked for beside it; None stands for what was not."""

    name: str
    camera_name: str
    image: UInt8[np.ndarray, "row column 3"]
    labels: UInt8[np.ndarray, "row column"] | None  # classes of the set's table
    depth: Float32[np.ndarray, "row column"] | None  # metres; background is infinite, or as stored
    camera: FisheyeCamera | None


@dataclasses.dataclass(frozen=True)
class FisheyeSet:
    """Examples by index, each read when it is asked for; made by `open_woodscape`."""

    folder: Path
    version: Version
    names: tuple[str, ...]
    parts: tuple[Part, ...]
    merged: bool  # the masks in the folder hold the table's classes already
    keep_background: bool  # at its stored depth
    image_shape: tuple[int, int] | None = None  # rows and columns of what is returned; None: as stored

    @property
    def table(self) -> ClassTable:
        """The classes of the labels."""
        return class_table(self.version)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> FisheyeExample:
        return self.read(self.names[index])

    def __iter__(self) -> Iterator[FisheyeExample]:
        return (self.read(name) for name in self.names)

    def subset(self, names: Sequence[str]) -> "FisheyeSet":
        """The examples of these names, in their order.

        Raises:
            InputError: a name that this set has not.
        """
        strange = sorted(set(names) - set(self.names))
        if strange:
            raise InputError(
                f"{len(strange)} of {len(names)} names are not in {self.folder}, the first is {strange[0]!r}; names "
                f"are those of its images without .png, such as {self.names[0]!r}"
            )
        return dataclasses.replace(self, names=tuple(names))

    def read(self, name: str) -> FisheyeExample:
        """One example by its name.

        Raises:
            InputError: no such example, or a class that the set does not have.
            CorruptFileError: a damaged file, of another type, or of another size than the image.
            ToolMissingError: Pillow is not installed.
        """
        if name not in self.names:
            raise InputError(f"there is no {name!r} among the {len(self)} images of {self.folder}")
        image = read_color_png(self._path("image", name))
        labels = self._read_labels(name, image.shape[:2]) if "labels" in self.parts else None
        depth = self._read_depth(name, image.shape[:2]) if "depth" in self.parts else None
        camera = self._read_camera(name, image.shape[:2]) if "calibration" in self.parts else None
        example = FisheyeExample(name, camera_name(name), image, labels, depth, camera)
        return example if self.image_shape is None else resize_example(example, self.image_shape)

    def _path(self, part: Part, name: str) -> Path:
        return _part_folder(self.folder, part) / f"{name}{_SUFFIXES[part]}"

    def _read_labels(self, name: str, size: tuple[int, int]) -> np.ndarray:
        path = self._path("labels", name)
        raw = read_index_png(path)
        _check_size(raw.shape, size, path)
        table = self.table
        if self.merged:
            table = dataclasses.replace(table, merging=tuple(range(table.num_classes)))
        return merge_labels(raw, table, str(path))

    def _read_depth(self, name: str, size: tuple[int, int]) -> np.ndarray:
        path = self._path("depth", name)
        stored = read_npy(path, "depth")
        if not np.issubdtype(stored.dtype, np.floating):
            raise CorruptFileError(f"{path} holds {stored.dtype}, but a depth map has floating-point metres")
        _check_size(stored.shape, size, path)
        bad = ~(stored >= 0)
        if bad.any():
            raise CorruptFileError(
                f"{path} has {int(bad.sum())} negative or NaN depths of {stored.size}; metres are needed"
            )
        depth = stored.astype(np.float32)
        return depth if self.keep_background else mask_background(depth)

    def _read_camera(self, name: str, size: tuple[int, int]) -> FisheyeCamera:
        path = self._path("calibration", name)
        value = read_json_file(path, "calibration")
        if not isinstance(value, dict):
            raise CorruptFileError(f"{path} must hold a calibration as a JSON object, got {type(value).__name__}")
        said = value.get("name")
        if said in get_args(CameraName) and said != camera_name(name):
            raise CorruptFileError(
                f"{path} is the calibration of {said}, but its image was taken by {camera_name(name)}"
            )
        try:
            camera = read_calibration(value)
        except (ConfigError, InputError) as error:
            raise CorruptFileError(f"{path} holds no calibration: {error}") from error
        _check_size(camera.image_shape, size, path)
        return camera


def resize_example(example: FisheyeExample, image_shape: tuple[int, int]) -> FisheyeExample:
    """The same view in another number of pixels, between the same outer edges.

    Colours are means over the area of each new pixel, classes and depths those at its centre, so that no class or depth
    comes up that was not there; the camera is `resize_camera`'s.

    Args:
        example: as read.
        image_shape: rows and columns; may stretch the image, as the published size does.

    Raises:
        InputError: no row or no column.
    """
    return example._replace(
        image=resize_area(example.image, *image_shape),
        labels=None if example.labels is None else resize_nearest(example.labels, *image_shape),
        depth=None if example.depth is None else resize_nearest(example.depth, *image_shape),
        camera=None if example.camera is None else resize_camera(example.camera, image_shape),
    )


def open_woodscape(
    version: Version = "woodscape",
    folder: StrPath | None = None,
    *,
    parts: Sequence[Part] = ("image", "labels", "calibration"),
    cameras: Sequence[CameraName] = ("FV", "RV", "MVL", "MVR"),
    merged: bool = False,
    keep_background: bool = False,
    image_shape: tuple[int, int] | None = None,
) -> FisheyeSet:
    """The examples of one set, sorted by name; nothing but names is read.

    Args:
        version: which classes. All SynWoodScape versions are read from one folder and merged as they are read.
        folder: of the set; by default `woodscape` or `synwoodscape` in the folder named by JAXGEO_DATA.
        parts: what to read beside the image; each must be there for every image.
        cameras: whose images to take.
        merged: the masks in the folder hold merged classes already, as the published program writes them.
        keep_background: leave the depth of SynWoodScape's background at its stored 1000 m.
        image_shape: rows and columns to resize every example to; by default they stay as stored.

    Raises:
        ConfigError: unknown version, part or camera; depth of WoodScape; no folder is named; no rows or columns.
        InputError: there are no images, images without one of the parts, parts without their image, or an image whose
            name has no camera.
        CorruptFileError: the folder's own list of classes has another number of classes than the masks should have.
    """
    table = class_table(version)
    for values, allowed, what in ((parts, Part, "part"), (cameras, CameraName, "camera")):
        unknown = [value for value in values if value not in get_args(allowed)]
        if unknown:
            raise ConfigError(f"unknown {what} {unknown[0]!r}; there are {', '.join(get_args(allowed))}")
    if version == "woodscape" and "depth" in parts:
        raise ConfigError("WoodScape has no depth maps; SynWoodScape has: open version 'synwoodscape'")
    if image_shape is not None and min(image_shape) < 1:
        raise ConfigError(f"image_shape has at least one row and one column, got {image_shape}; None keeps them all")
    folder = _set_folder(version, folder)
    names = _names(folder, cameras)
    for part in parts:
        _check_complete(folder, part, names, cameras)
    class_file = folder / _CLASS_FILE
    if "labels" in parts and class_file.is_file():
        found, needed = len(read_raw_classes(class_file).names), table.num_classes if merged else len(table.merging)
        if found != needed:
            raise CorruptFileError(
                f"{class_file} names {found} classes, but {version} {'merged' if merged else 'before merging'} has "
                f"{needed}; open the folder with another version, or say whether its masks are merged (merged={merged})"
            )
    read: tuple[Part, ...] = ("image", *(part for part in parts if part != "image"))
    return FisheyeSet(folder, version, names, read, merged, keep_background, image_shape)


def camera_name(name: str) -> str:
    """FV, RV, MVL or MVR of an example's name.

    Raises:
        InputError: the name has none.
    """
    found = _CAMERA.search(name)
    if found is None:
        raise InputError(f"{name!r} names no camera; names of WoodScape end in one of FV, RV, MVL, MVR: '00000_FV'")
    return found.group(1)


def _set_folder(version: str, folder: StrPath | None) -> Path:
    if folder is None:
        root = data_root()
        if root is None:
            raise ConfigError(
                f"{version} is read from files: give its folder, or set {DATA_VARIABLE} to the folder that holds "
                f"{version.split('_', maxsplit=1)[0]}/"
            )
        folder = root / version.split("_", maxsplit=1)[0]
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(
            f"{version} is looked for in {folder}, which is no folder; unpack the published archives there"
        )
    return folder


def _part_folder(folder: Path, part: str) -> Path:
    candidates = [folder / name for name in _FOLDERS[part]]
    return next((path for path in candidates if path.is_dir()), candidates[0])


def _stems(folder: Path, part: str) -> set[str]:
    path = _part_folder(folder, part)
    if not path.is_dir():
        return set()
    # Names with a dot in front are what file managers leave behind.
    return {p.stem for p in path.iterdir() if p.suffix == _SUFFIXES[part] and not p.name.startswith(".")}


def _names(folder: Path, cameras: Sequence[str]) -> tuple[str, ...]:
    names = tuple(sorted(name for name in _stems(folder, "image") if camera_name(name) in cameras))
    if not names:
        raise InputError(
            f"{_part_folder(folder, 'image')} has no PNG images of the cameras {', '.join(cameras)}; the published "
            f"layout is rgb_images/rgb_images/00000_FV.png"
        )
    return names


def _check_complete(folder: Path, part: str, names: tuple[str, ...], cameras: Sequence[str]) -> None:
    stems = _stems(folder, part)
    missing = sorted(set(names) - stems)
    strays = sorted(name for name in stems - set(names) if (found := _CAMERA.search(name)) and found[1] in cameras)
    if strays:
        raise InputError(
            f"{len(strays)} files of {part} have no image, the first is {strays[0]}: "
            f"{_part_folder(folder, 'image') / strays[0]}{_SUFFIXES['image']} is needed; complete the folder or take "
            f"those files out"
        )
    if missing:
        raise InputError(
            f"{len(missing)} of {len(names)} images have no {part}, the first is {missing[0]}: "
            f"{_part_folder(folder, part) / missing[0]}{_SUFFIXES[part]} is needed; complete the folder or leave "
            f"{part!r} out of the parts"
        )


def _check_size(found: tuple[int, ...], image: tuple[int, int], path: Path) -> None:
    if found != image:
        raise CorruptFileError(
            f"{path} is of size {found}, but its image has {image[0]} rows and {image[1]} columns; both must be of one "
            f"frame at the published size"
        )
