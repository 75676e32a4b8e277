"""What the study of equivariance against augmentation trains: data sets, networks, cells, and two grids of cells."""

import dataclasses
from typing import Any, Literal

from jaxgeo.data.digits import Source
from jaxgeo.data.spherical_digits import SphericalDigitsConfig
from jaxgeo.models.planar_cnn import CNN_1M, CNN_5M, CNN_218K, CnnClassifierConfig, CnnSegmenterConfig
from jaxgeo.models.s2cnn import KernelGrid
from jaxgeo.models.s2cnn_classifier import S2CNNClassifierConfig
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenterConfig

Task = Literal["segmentation", "classification"]
NETWORKS = ("s2cnn", "cnn_small", "cnn_medium", "cnn_large")
PLANAR = NETWORKS[1:]


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One kind of spherical images."""

    title: str
    source: Source
    digits: SphericalDigitsConfig


@dataclasses.dataclass(frozen=True)
class Training:
    """Adam with a cosine schedule on the mean cross-entropy."""

    steps: int
    batch_size: int
    learning_rate: float
    area_weighted: bool = False  # each pixel of a segmentation counts by its area, or all the same as published


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """One network trained once."""

    task: Task
    data: str
    network: str
    num_train: int
    augmented: bool  # trained on rotated images
    seed: int

    @property
    def name(self) -> str:
        """Of the cell's file."""
        pose = "rotated" if self.augmented else "unrotated"
        return f"{self.task}-{self.data}-{self.network}-{self.num_train}-{pose}-{self.seed}"


@dataclasses.dataclass(frozen=True)
class Grid:
    """All that a run trains."""

    name: str
    data: dict[str, DataSet]
    networks: dict[tuple[Task, str], Any]  # configuration of a model by task and network
    training: dict[tuple[Task, str], Training]  # likewise
    cells: tuple[Cell, ...]
    num_test: int

    @property
    def seeds(self) -> int:
        """Number of different seeds."""
        return len({cell.seed for cell in self.cells})


def _cells(
    task: Task,
    data: str,
    s2cnn_sizes: tuple[int, ...],
    planar_sizes: tuple[int, ...],
    augmented_sizes: tuple[int, ...],
    seeds: int,
) -> list[Cell]:
    """S2CNN and CNNs on unrotated images, and CNNs on rotated images too."""
    cells = []
    for seed in range(seeds):
        cells += [Cell(task, data, "s2cnn", size, False, seed) for size in s2cnn_sizes]
        for network in PLANAR:
            cells += [Cell(task, data, network, size, False, seed) for size in planar_sizes]
            cells += [Cell(task, data, network, size, True, seed) for size in augmented_sizes]
    return cells


def _data_sets(digits: SphericalDigitsConfig, source: Source, garments: bool) -> dict[str, DataSet]:
    data = {
        "one_digit": DataSet("one digit", source, digits),
        "four_digits": DataSet("four digits", source, dataclasses.replace(digits, num_digits=4)),
    }
    if garments:
        data["fashion"] = DataSet("FashionMNIST", "fashion_mnist", digits)
    return data


# The reduced networks stand to each other nearly as the published ones do: CNNs of 1, 5 and 27 times the parameters.
_KERNELS = KernelGrid(num_alpha=6, num_beta=3, num_gamma=4)
_SEGMENTERS = {"cnn_small": (12, 16, 28, 42), "cnn_medium": (12, 16, 56, 144), "cnn_large": (12, 16, 112, 400)}
_CLASSIFIERS = {"cnn_small": (14, 28, 44, 72), "cnn_medium": (16, 32, 88, 224), "cnn_large": (16, 48, 192, 512)}
_REDUCED_BANDLIMIT = 12
_REDUCED_TEST_IMAGES = 1000


def _reduced_networks() -> dict[tuple[Task, str], Any]:
    size = 2 * _REDUCED_BANDLIMIT
    networks: dict[tuple[Task, str], Any] = {
        ("segmentation", "s2cnn"): S2CNNSegmenterConfig(
            input_bandlimit=_REDUCED_BANDLIMIT,
            output_bandlimit=_REDUCED_BANDLIMIT,
            features=(12, 16, 12),
            bandlimits=(10, 8, 10),
            kernel_max_beta=(0.12, 0.22, 0.3, 0.2),
            kernel_grid=_KERNELS,
            batch_norm=True,
            oversampling=1.5,
            latitudes="gauss_legendre",
        ),
        ("classification", "s2cnn"): S2CNNClassifierConfig(
            input_bandlimit=_REDUCED_BANDLIMIT,
            features=(12, 16, 24),
            bandlimits=(10, 8, 6),
            kernel_max_beta=(0.12, 0.22, 0.3),
            kernel_grid=_KERNELS,
            batch_norm=True,
            oversampling=1.5,
            latitudes="gauss_legendre",
        ),
    }
    for network, features in _SEGMENTERS.items():
        networks["segmentation", network] = CnnSegmenterConfig(
            features, (3, 3, 3, 3), (1, 2, 2, 1), batch_norm=True, size=size
        )
    for network, features in _CLASSIFIERS.items():
        networks["classification", network] = CnnClassifierConfig(
            features, (3, 3, 3, 3), (2, 2, 1, 1), batch_norm=True, size=size
        )
    return networks


def reduced_grid(source_of_digits: Source = "mnist", garments: bool = True, seeds: int = 3) -> Grid:
    """Bandlimit 12, some thousand images, three seeds: minutes on two cores.

    Every cell of a network has the same number of steps, whatever the number of images: what differs is their variety.

    Args:
        source_of_digits: where digits come from.
        garments: whether FashionMNIST is there.
        seeds: of each cell.
    """
    digits = SphericalDigitsConfig(bandlimit=_REDUCED_BANDLIMIT)
    data = _data_sets(digits, source_of_digits, garments)
    # At this resolution four digits are nine pixels wide each on the published canvas; on a tighter one eleven.
    four = dataclasses.replace(data["four_digits"].digits, canvas_size=48 if source_of_digits == "mnist" else None)
    data["four_digits"] = dataclasses.replace(data["four_digits"], digits=four)
    training = {
        ("segmentation", "s2cnn"): Training(1500, 8, 2e-2, area_weighted=True),
        ("classification", "s2cnn"): Training(1500, 8, 2e-2),
    }
    for network in PLANAR:
        training["segmentation", network] = Training(800, 8, 3e-3)
        training["classification", network] = Training(800, 8, 3e-3)
    cells = _cells("segmentation", "one_digit", (500, 2000), (2000,), (1000, 2000, 4000), seeds)
    for name in list(data)[1:]:
        cells += _cells("segmentation", name, (4000,), (), (4000,), seeds)
    cells += _cells("classification", "one_digit", (2000,), (2000,), (1000, 2000, 4000), seeds)
    return Grid("reduced", data, _reduced_networks(), training, tuple(cells), _REDUCED_TEST_IMAGES)


def full_grid(source_of_digits: Source = "mnist", garments: bool = True, seeds: int = 3) -> Grid:
    """The published sizes: bandlimit 50, 204k S2CNN, CNNs of 218k, 1M and 5.5M, up to 240,000 images. For a GPU."""
    data = _data_sets(SphericalDigitsConfig(bandlimit=50), source_of_digits, garments)
    networks: dict[tuple[Task, str], Any] = {
        ("segmentation", "s2cnn"): S2CNNSegmenterConfig(latitudes="gauss_legendre"),
        ("classification", "s2cnn"): S2CNNClassifierConfig(
            input_bandlimit=50, features=(20, 40), bandlimits=(16, 10), latitudes="gauss_legendre"
        ),
    }
    for network, config in zip(PLANAR, (CNN_218K, CNN_1M, CNN_5M), strict=True):
        networks["segmentation", network] = config
        networks["classification", network] = CnnClassifierConfig(
            config.features, config.kernel_sizes, config.strides, size=100
        )
    training: dict[tuple[Task, str], Training] = {}
    for task in ("segmentation", "classification"):
        for network in NETWORKS:
            training[task, network] = Training(200_000, 32, 1e-3)
    doubling = (7_500, 15_000, 30_000, 60_000, 120_000, 240_000)
    cells = _cells("segmentation", "one_digit", doubling[:4], doubling[:4], doubling, seeds)
    for name in list(data)[1:]:
        cells += _cells("segmentation", name, (60_000,), (), (60_000, 120_000, 240_000), seeds)
    cells += _cells("classification", "one_digit", (60_000,), (60_000,), doubling, seeds)
    return Grid("full", data, networks, training, tuple(cells), num_test=10_000)
