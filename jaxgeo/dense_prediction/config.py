"""What a run of dense prediction can be told: frozen dataclasses that refuse at once what cannot be."""

import dataclasses
import math
from typing import Literal

from jaxgeo.data.depth_scaling import Normalisation, Transform
from jaxgeo.data.splits import EFFICIENCY_SEED
from jaxgeo.data.stanford_panoramas import AREA_FOLDS
from jaxgeo.data.woodscape import CameraName
from jaxgeo.errors import ConfigError, check_fields
from jaxgeo.grids.healpix import check_nside
from jaxgeo.layers.window_attention import Chunk
from jaxgeo.models.swin_unet import ComputeDtype
from jaxgeo.modes import Mode
from jaxgeo.training.supervised import SupervisedConfig

Source = Literal[
    "earth", "scenes", "stanford", "woodscape", "synwoodscape", "synwoodscape_large", "synwoodscape_large_plus_AD"
]
Task = Literal["segmentation", "depth"]
Loss = Literal["cross_entropy", "l1", "l2", "huber", "gaussian"]
_SEEDS = 0, 2**32 - 1  # as JAX's and NumPy's keys take them
SCENES_SHAPE = 128, 160  # rows and columns of drawn pictures


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which pictures of the sphere, and how fine."""

    source: Source = "earth"
    """earth: the climate map of JAXGEO_DATA; scenes: drawn on the spot; the others are published folders there"""
    task: Task = "segmentation"
    """depth: scenes, stanford and synwoodscape only"""
    nside: int = 128
    """HEALPix resolution of the maps"""
    faces: int = 12
    """the first so many of the twelve faces; a fisheye camera sees little beyond the first 8"""
    base_pixels: tuple[int, ...] = ()
    """faces by number, 0 to 11, in the order of the maps' pixels, in place of the first so many"""
    cameras: tuple[CameraName, ...] = ("FV", "RV", "MVL", "MVR")
    """woodscape and synwoodscape: whose pictures are taken"""
    rotate_pole: bool = False
    """fisheye pictures: the sphere's pole is along the vehicle's axis nearest to the optical one, as the camera's
    extrinsics tell, and not the optical axis itself"""
    sampling: Mode = "correct"
    """fisheye pictures onto the sphere and back; faithful: as published, see `jaxgeo.grids.resample`, and colours
    truncated to bytes"""
    inputs: Literal["standardised", "raw"] = "standardised"
    """colours of about unit size around 0; raw: 0 to 255, as published"""
    unseen: Literal["ignored", "void"] = "ignored"
    """what a fisheye camera does not see: counts nowhere; void: is a black pixel of class void like any other, as
    published"""
    split: Mode = "correct"
    """woodscape and synwoodscape: faithful has one picture in both parts where a share is whole, as published"""
    folds: int = 4
    """earth: parts of its labelled regions, of which one is held back"""
    fold: int = 0
    """earth: which one; stanford: 0, 1 or 2, the published choices of areas to hold back"""
    symmetries: bool = True
    """earth: train on its sixteen exact turns and mirror images, not on one of them"""
    mirrors: Literal["both", "equator"] = "both"
    """earth: equator: of the sixteen only the eight that leave the east where it is. Winds do not: western coasts have
    other climates than eastern ones"""
    turns: int = 1
    """earth: turns about the axis within each quarter, to the nearest pixels; 1: by quarters alone, which are exact"""
    train_examples: int = 200
    """pictures to learn from; of a published folder at most what its split gives"""
    test_examples: int = 50
    """pictures to judge by"""
    subset: float = 1.0
    """share of the training pictures that is learnt from; smaller shares lie in larger ones"""
    subset_seed: int = EFFICIENCY_SEED
    """of the subset: another one, another family"""
    image_rows: int | None = None
    """scenes: of the fisheye picture, by default 128; woodscape and synwoodscape: to resize pictures to, cameras with
    them, by default as stored"""
    image_columns: int | None = None
    """likewise, 160 for scenes; both or none"""
    seed: int = 0
    """of folds and scenes"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(
            self, "data", faces=(1, 12), turns=1, train_examples=1, test_examples=1, subset_seed=_SEEDS,
            image_rows=1, image_columns=1, seed=_SEEDS,
        )  # fmt: skip
        check_nside(self.nside)  # a flat network is judged on the sphere too
        self._check_faces()
        self._check_source()
        if not 0 < self.subset <= 1:
            raise ConfigError(f"data.subset must lie above 0 and not above 1, got {self.subset}; 1 takes all pictures")
        if (self.image_rows is None) != (self.image_columns is None):
            raise ConfigError(
                f"data.image_rows and data.image_columns are both given or both not, got {self.image_rows} and "
                f"{self.image_columns}"
            )

    def _check_faces(self) -> None:
        numbers = self.base_pixels
        if len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(12)):
            raise ConfigError(f"data.base_pixels are different faces, 0 to 11, got {numbers}")
        if self.source in ("earth", "stanford") and (self.faces != 12 or numbers):
            what = "the Earth" if self.source == "earth" else "a panorama"
            got = f"data.base_pixels {numbers}" if numbers else f"data.faces {self.faces}; leave it at 12"
            raise ConfigError(f"{what} has all 12 faces, got {got}")

    def _check_source(self) -> None:
        source = self.source
        if self.task == "depth" and source in ("earth", "woodscape"):
            raise ConfigError(f"{source} has no depths; take data.source 'scenes', 'stanford' or 'synwoodscape'")
        folds = len(AREA_FOLDS) if source == "stanford" else self.folds
        if not 0 <= self.fold < folds:
            raise ConfigError(f"data.fold must lie in 0 ... {folds - 1}, got {self.fold}")
        if source == "earth" and self.subset != 1:
            raise ConfigError(f"the Earth is one map and has no subset {self.subset} of pictures; leave it at 1")
        if not self.symmetries and (self.turns, self.mirrors) != (1, "both"):
            raise ConfigError(
                "data.turns and data.mirrors say which data.symmetries are taken; set that, or leave both"
            )
        if source == "earth" and self.inputs == "raw":
            raise ConfigError(
                "the Earth's maps have units of their own and are standardised; leave data.inputs at that"
            )
        if source in ("earth", "stanford") and (self.rotate_pole, self.sampling, self.unseen) != (
            False, "correct", "ignored",
        ):  # fmt: skip
            raise ConfigError(
                f"{source} has no fisheye pictures; leave data.rotate_pole, data.sampling and data.unseen as they are"
            )
        if "woodscape" not in source and (self.split != "correct" or len(self.cameras) < 4):
            raise ConfigError(f"{source} has no split and no cameras; leave data.split and data.cameras as they are")
        if not self.cameras:
            raise ConfigError("data.cameras names at least one of FV, RV, MVL and MVR, got none")

    @property
    def used_base_pixels(self) -> tuple[int, ...]:
        """Of the faces of all maps, in their order."""
        return self.base_pixels or tuple(range(self.faces))

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Rows and columns of the pictures; None where they are as stored, or where there are none."""
        if self.image_rows is None or self.image_columns is None:
            return SCENES_SHAPE if self.source == "scenes" else None
        return self.image_rows, self.image_columns


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """A HEAL-SWIN on the sphere, or its flat baseline on the pictures themselves."""

    kind: Literal["heal_swin", "swin"] = "heal_swin"
    """swin: the flat baseline; --preset paper-flat has its published sizes"""
    embed_dim: int = 24
    """channels of the first stage; doubled at each further one"""
    depths: tuple[int, ...] = (2, 2, 2)
    """blocks of each stage"""
    num_heads: tuple[int, ...] = (2, 4, 8)
    patch_size: int = 16
    """pixels of a token; its root is the side of the flat network's patches"""
    window_size: int = 16
    """tokens of a window; its root is the side of the flat network's windows"""
    shift: Literal["grid", "spiral", "nest_roll", "seamless"] = "seamless"
    """heal_swin; seamless needs 12 faces"""
    shift_size: int = 2
    """spiral and nest_roll, and the flat network's rows and columns"""
    position_bias: Literal["none", "window", "face"] = "window"
    """heal_swin: of logits, by offset in the window, or by face too"""
    attention: Literal["cosine", "dot"] = "cosine"
    qkv_bias: bool = True
    qk_scale: float | None = None
    """dot: factor of the logits; None: 1 / sqrt(channels of a head)"""
    masking: bool = True
    """swin: tokens that a shift brings together from opposite sides do not attend to each other; False: they do"""
    absolute_position: bool = False
    """a learned vector for each token: the network then knows where on the sphere, or in the picture, it is"""
    patch_norm: bool = False
    """normalise the embedded patches, so that what a vector of position adds to them is not small beside them"""
    latitude: bool = False
    """heal_swin: each pixel's |sin latitude| is one more channel of the inputs"""
    pixel_width: int = 0
    """heal_swin: hidden width of a perceptron from each pixel's own channels to logits beside the decoder's; 0: none"""
    context_dropout_rate: float = 0.0
    """heal_swin: probability that training drops the decoder's logits in a sub-square, beside such a perceptron"""
    norm_placement: Literal["post", "pre"] = "pre"
    """post is the published one"""
    mlp_ratio: float = 2.0
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    stochastic_depth_rate: float = 0.1
    mode: Mode = "correct"
    """faithful: the quirks of the published program, with which its weights give its outputs"""
    compute_dtype: ComputeDtype | None = None
    """of activations and products; None: float32; softmax and norms stay in float32"""
    remat: bool = False
    """compute blocks anew for derivatives, for less memory"""
    attention_chunk: Chunk = "auto"
    """queries whose logits exist at a time; None: all of a block; auto: what is fast"""

    def __post_init__(self) -> None:
        """Refuse other types; sizes are checked where a network of them is made."""
        check_fields(self, "network")


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    """How depths are scaled before a network learns them: see `jaxgeo.data.depth_scaling`."""

    transform: Transform = "log"
    normalisation: Normalisation = "standardise"
    statistics: Literal["measured", "published"] = "measured"
    """of the pictures to learn from, or those that are published for SynWoodScape; their mean depth is also what
    relative errors compare with"""
    background: Literal["missing", "kept"] = "missing"
    """synwoodscape: whether the sky has no depth or its stored 1000 m"""
    limit: float | None = 1000.0
    """metres beyond which no prediction goes; None: they are left as they are"""
    mode: Mode = "correct"

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "depth", limit=(0, math.inf))
        if self.limit == 0:
            raise ConfigError(f"depth.limit is the largest depth in metres, above 0, got {self.limit}; None sets none")


@dataclasses.dataclass(frozen=True)
class FitConfig:
    """What is minimised, and when to look and to stop."""

    loss: Loss = "cross_entropy"
    """cross_entropy for segmentation, the others for depth; gaussian predicts a variance too"""
    huber_delta: float = 1.0
    """error at which huber turns linear, in units of the scaled depth"""
    balance: float = 0.5
    """power of the classes' inverse shares as their weights: 0 counts pixels alike, 1 counts classes alike"""
    pixels: Literal["area", "equal"] = "area"
    """weights in the loss: solid angles, which differ in a picture; equal: all pixels that count alike, as published"""
    scores: Mode = "correct"
    """faithful: a class that does not occur has IoU 0, medians and inverse depths count the background, as published"""
    epochs: int | None = None
    """passes over the training examples, in place of training.steps"""
    evaluate_every: int = 100
    """steps between two checkpoints, and scores where there are examples to validate by"""
    figures: int = 3
    """test examples that are drawn into the run's folder"""
    patience: int = 0
    """scores without improvement after which training stops; the best parameters count then; 0: all steps"""
    keep_best: bool = False
    """the best parameters count also without patience, which may stop training; else the last ones do"""
    validate_by: Literal["held_back", "test"] = "held_back"
    """what the best are chosen by: an eighth of the training examples, which is then not learnt from; test: the very
    examples that are judged by in the end, as published"""
    seed: int = 0
    """of parameters, masks and the order of examples"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "fit", balance=(0, 1), epochs=1, evaluate_every=1, figures=0, patience=0, seed=_SEEDS)
        if not self.huber_delta > 0:
            raise ConfigError(f"fit.huber_delta must be above 0, got {self.huber_delta}; for 0 take loss l1")

    @property
    def chooses(self) -> bool:
        """Whether parameters are chosen by examples."""
        return self.keep_best or self.patience > 0


@dataclasses.dataclass(frozen=True)
class DenseConfig:
    """One run: data, network, what is minimised, and how."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)
    training: SupervisedConfig = dataclasses.field(
        default_factory=lambda: SupervisedConfig(
            steps=400, batch_size=2, learning_rate=2e-3, warmup_steps=40, clip_norm=1.0, average_decay=0.98
        )
    )
    depth: DepthConfig = dataclasses.field(default_factory=DepthConfig)

    def __post_init__(self) -> None:
        """Refuse parts that do not go together."""
        check_fields(self)
        segments = self.data.task == "segmentation"
        if segments != (self.fit.loss == "cross_entropy"):
            raise ConfigError(
                f"fit.loss {self.fit.loss!r} is not for {self.data.task}: segmentation takes cross_entropy, depth one "
                f"of l1, l2, huber, gaussian"
            )
        if self.network.kind == "swin" and self.data.source == "earth":
            raise ConfigError(
                "the Earth is a map of the whole sphere and has no flat picture; take network.kind heal_swin"
            )
        if self.network.kind == "swin" and (self.network.latitude or self.network.pixel_width):
            raise ConfigError(
                "a flat picture has no latitudes, and its network no perceptron of single pixels; take network.kind "
                "heal_swin, or network.latitude False and network.pixel_width 0"
            )
        if self.network.compute_dtype == "float16" and not self.training.loss_scaling:
            raise ConfigError(
                "small derivatives vanish in float16; take training.loss_scaling True, or network.compute_dtype "
                "bfloat16, which has the exponents of float32"
            )
        if self.network.kind == "heal_swin" and not self.network.masking:
            raise ConfigError("network.masking False is of the flat network alone; leave it, or take network.kind swin")
        if (
            self.network.kind == "heal_swin"
            and self.network.shift == "seamless"
            and len(self.data.used_base_pixels) != 12
        ):
            raise ConfigError(
                f"network.shift 'seamless' needs all 12 faces, got {self.data.used_base_pixels}; take 'grid' or "
                "'spiral'"
            )
