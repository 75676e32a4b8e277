"""Everything that a study can be told, as one tree of frozen dataclasses; impossible values are refused at once.

The defaults are the study that `make demo` runs. This module imports no JAX, so that the command line can check
a configuration, and print its help, without waiting for it.
"""

import dataclasses
import math
from typing import Literal

from jaxgeo.errors import ConfigError, check_fields


def _at_least(part: str, key: str, value: int | float, least: int | float, why: str) -> None:
    if value < least:
        raise ConfigError(f"{part}.{key} must be a number of at least {least}, got {value}: {why}")


def _positive(part: str, key: str, value: int | float, why: str) -> None:
    if value <= 0:
        raise ConfigError(f"{part}.{key} must be a finite number above 0, got {value}: {why}")


_SEEDS = 0, 2**32 - 1  # as JAX's and NumPy's keys take them
_FLOAT32_EXACT_BITS = 24
_MAX_BITS = 16


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which digits, and how they come onto the sphere."""

    source: Literal["sklearn", "mnist", "fashion_mnist"] = "sklearn"
    """sklearn: the bundled 8 x 8 digits of scikit-learn; the others are IDX files under JAXGEO_DATA"""
    nside: int = 8
    """HEALPix resolution, a power of two; 12 nside^2 pixels in NESTED order"""
    train_images: int = 1000
    """images to learn from"""
    test_images: int = 797
    """images to judge by; at least one for each class"""
    radius_degrees: float = 65.0
    """angle between the centre of a picture and the middle of its side, seen from the centre of the sphere"""
    tilt_degrees: float = 10.0
    """poses are turned by at most this angle about a random axis; 180 draws them from all of SO(3), Haar-uniformly"""
    seed: int = 1
    """of the split and of the poses"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "data", seed=_SEEDS)
        if self.nside < 1 or self.nside & (self.nside - 1):
            below = 1 << max(self.nside, 1).bit_length() - 1
            raise ConfigError(
                f"data.nside must be a power of two for NESTED order, got {self.nside}; the nearest are {below} and "
                f"{2 * below}"
            )
        _at_least("data", "train_images", self.train_images, 10, "each of the 10 classes needs an image to learn from")
        _at_least("data", "test_images", self.test_images, 10, "each of the 10 classes needs a test image")
        if not 0 < self.radius_degrees < 180:
            raise ConfigError(
                f"data.radius_degrees must lie between 0 and 180, because the far pole is at infinity on the plane of "
                f"the picture, got {self.radius_degrees}"
            )
        if not 0 <= self.tilt_degrees <= 180:
            raise ConfigError(f"data.tilt_degrees must lie between 0 and 180, got {self.tilt_degrees}")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The classifier: patch convolutions down the NESTED hierarchy, then one affine head."""

    features: tuple[int, ...] = (8, 16)
    """after each convolution"""
    patches: tuple[int, ...] = (16, 4)
    """pixels merged by each convolution; powers of four"""
    prior_scale: float = 2.0
    """standard deviation of the Gaussian prior, in units of each layer's 1/sqrt(fan-in); shared by every method"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "model")
        if not self.features or len(self.features) != len(self.patches):
            raise ConfigError(
                f"model.features and model.patches describe the same layers, at least one, got "
                f"{list(self.features)} and {list(self.patches)}"
            )
        if min(self.features) < 1:
            raise ConfigError(f"model.features must be at least 1 each, got {list(self.features)}")
        for patch in self.patches:
            if patch < 1 or patch & (patch - 1) or patch.bit_length() % 2 == 0:
                raise ConfigError(
                    f"model.patches must be powers of four, so that a patch is a HEALPix sub-square, got "
                    f"{list(self.patches)}"
                )
        _positive("model", "prior_scale", self.prior_scale, "a prior needs a width")


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """A deep ensemble, all members in one compiled step."""

    members: int = 16
    """networks trained at once from different initial weights"""
    epochs: int = 60
    """passes over the training images"""
    batch_size: int = 100
    """images in a step"""
    learning_rate: float = 1e-2
    """peak of the schedule"""
    chunk_epochs: int = 5
    """epochs between two reports of progress; the result does not depend on it"""
    seed: int = 2
    """of initial weights and batches"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "ensemble", seed=_SEEDS)
        _at_least("ensemble", "members", self.members, 1, "an ensemble of no members predicts nothing")
        _check_training("ensemble", self)


@dataclasses.dataclass(frozen=True)
class DropoutConfig:
    """Monte Carlo dropout: networks trained under masks on their weights, and judged under masks."""

    members: int = 4
    """networks trained at once; between them the error of the family can be seen"""
    rate: float = 0.1
    """probability that a unit is dropped"""
    draws: int = 16
    """masks at prediction, for each network"""
    epochs: int = 60
    """passes over the training images"""
    batch_size: int = 100
    """images in a step"""
    learning_rate: float = 1e-2
    """peak of the schedule"""
    chunk_epochs: int = 5
    """epochs between two reports of progress; the result does not depend on it"""
    seed: int = 3
    """of initial weights, batches and masks"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "dropout", seed=_SEEDS)
        _at_least("dropout", "members", self.members, 1, "a family without a network predicts nothing")
        if not 0 < self.rate < 1:
            raise ConfigError(f"dropout.rate must lie between 0 and 1, both excluded, got {self.rate}")
        _at_least("dropout", "draws", self.draws, 2, "mutual information needs two draws")
        _check_training("dropout", self)


def _check_training(part: str, config: EnsembleConfig | DropoutConfig) -> None:
    _at_least(part, "epochs", config.epochs, 1, "a network that has seen no image predicts nothing")
    _at_least(part, "batch_size", config.batch_size, 1, "a step needs an image")
    _at_least(part, "chunk_epochs", config.chunk_epochs, 1, "progress needs a step")
    _positive(part, "learning_rate", config.learning_rate, "without it nothing is learned")


@dataclasses.dataclass(frozen=True)
class ReferenceConfig:
    """The reference: Hamiltonian Monte Carlo on the same log joint."""

    num_chains: int = 4
    """started apart, run at once"""
    num_warmup: int = 50
    """transitions that adapt the step size, not kept"""
    num_draws: int = 70
    """kept of each chain"""
    thinning: int = 1
    """transitions for each draw that is kept"""
    start: Literal["ensemble", "prior"] = "ensemble"
    """chains begin at trained members, or at draws of the prior"""
    trajectory_length: float = math.pi / 2
    """of a transition, in prior standard deviations"""
    warmup_leapfrogs: int = 48
    """gradient evaluations of each transition of the warm-up"""
    max_leapfrogs: int = 512
    """a longer trajectory is cut short"""
    target_acceptance: float = 0.7
    """harmonic mean of the chains' acceptances that the step size aims at"""
    chunk: int = 1
    """transitions between two states that can be saved; the result does not depend on it"""
    seed: int = 4
    """of starting points and momenta"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "hmc", seed=_SEEDS)
        _at_least("hmc", "num_chains", self.num_chains, 1, "the reference needs a chain, and four to show convergence")
        _at_least("hmc", "num_warmup", self.num_warmup, 1, "the step size must adapt")
        _at_least("hmc", "num_draws", self.num_draws, 4, "split R-hat compares halves of at least two draws")
        _at_least("hmc", "thinning", self.thinning, 1, "each draw needs a transition")
        _at_least("hmc", "warmup_leapfrogs", self.warmup_leapfrogs, 1, "a trajectory needs a step")
        _at_least("hmc", "max_leapfrogs", self.max_leapfrogs, 1, "a trajectory needs a step")
        _positive("hmc", "trajectory_length", self.trajectory_length, "a trajectory must lead somewhere")
        _at_least("hmc", "chunk", self.chunk, 1, "progress needs a step")
        if not 0 < self.target_acceptance < 1:
            raise ConfigError(f"hmc.target_acceptance must lie between 0 and 1, got {self.target_acceptance}")
        if self.num_chains == 1 and self.num_draws % 2:
            raise ConfigError(
                f"hmc.num_draws must be even for a single chain, whose halves are held against each other, got "
                f"{self.num_draws}"
            )


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """How predictions are judged."""

    bins: int = 15
    """confidence bins of the calibration error"""
    draws: int = 64
    """draws kept of HMC for the study of rotation, thinned evenly"""
    angles: tuple[float, ...] = (0.0, 15.0, 30.0, 45.0, 60.0, 90.0, 120.0, 150.0, 180.0)
    """degrees by which test digits are turned away from their pose about a random axis"""
    rotation_images: int = 200
    """test images that are turned"""
    seed: int = 5
    """of the axes"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "score", seed=_SEEDS)
        _at_least("score", "bins", self.bins, 1, "calibration needs a bin")
        _at_least("score", "draws", self.draws, 2, "mutual information needs two draws")
        _at_least("score", "rotation_images", self.rotation_images, 1, "the rotation study needs an image")
        if not self.angles or not all(0 <= angle <= 180 for angle in self.angles):
            raise ConfigError(f"score.angles must be degrees between 0 and 180, got {list(self.angles)}")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """One member to fixed point, to Keras, to hls4ml C++ and to RTL."""

    run: bool = True
    """carry a member to hardware; without that, g++ need not be there"""
    member: int = 0
    """which member of the ensemble is carried to hardware"""
    weight_bits: int = 6
    """of each kernel"""
    activation_bits: int = 8
    """of the input, hidden results and biases"""
    logit_bits: int = 12
    """of the outputs"""
    epochs: int = 10
    """passes of fine-tuning with the quantisers in place; 0 rounds the trained weights as they are"""
    batch_size: int = 64
    """images in a step of the fine-tuning"""
    learning_rate: float = 1e-3
    """of the fine-tuning"""
    rtl: bool = True
    """also make Verilog of a small head by da4ml and simulate it"""
    seed: int = 6
    """of the fine-tuning's batches"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "export", seed=_SEEDS)
        _at_least("export", "member", self.member, 0, "members are counted from 0")
        for key in ("weight_bits", "activation_bits", "logit_bits"):
            bits = getattr(self, key)
            _at_least("export", key, bits, 2, "a signed number needs a sign and a digit")
            if bits > _MAX_BITS:
                raise ConfigError(
                    f"export.{key} must be at most {_MAX_BITS}, got {bits}: products and sums of wider words are not "
                    f"exact in float32, which JAX computes in"
                )
        _at_least("export", "epochs", self.epochs, 0, "0 rounds the trained weights as they are")
        _at_least("export", "batch_size", self.batch_size, 1, "a step needs an image")
        _positive("export", "learning_rate", self.learning_rate, "without it nothing is learned")


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """The page."""

    title: str = "Digits on the sphere: an ensemble, MC dropout and their HMC reference"
    """heading of report.html"""
    spheres: int = 6
    """digits drawn as Mollweide maps"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "report")
        _at_least("report", "spheres", self.spheres, 1, "the report shows what was learned from")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """How the run is kept; nothing here changes a number."""

    checkpoint_seconds: float = 3.0
    """least time between two savings of an unfinished stage; 0 saves after every step that can be saved"""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self, "run")
        _at_least("run", "checkpoint_seconds", self.checkpoint_seconds, 0, "time does not run backwards")


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """The whole study; the defaults are what `make demo` runs."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    dropout: DropoutConfig = DropoutConfig()
    hmc: ReferenceConfig = ReferenceConfig()
    score: ScoreConfig = ScoreConfig()
    export: ExportConfig = ExportConfig()
    report: ReportConfig = ReportConfig()
    run: RunConfig = RunConfig()

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        check_fields(self)
        merged = math.prod(self.model.patches)
        if self.data.nside**2 % merged:
            raise ConfigError(
                f"model.patches {list(self.model.patches)} merge {merged} pixels, more than the {self.data.nside**2} "
                f"of one base pixel at data.nside {self.data.nside}"
            )
        for part in ("ensemble", "dropout"):
            batch = getattr(self, part).batch_size
            if batch > self.data.train_images:
                raise ConfigError(
                    f"{part}.batch_size must not exceed data.train_images, got {batch} of {self.data.train_images}"
                )
        if self.hmc.start == "ensemble" and self.hmc.num_chains > self.ensemble.members:
            raise ConfigError(
                f"hmc.start 'ensemble' needs a member for each chain, got {self.ensemble.members} members for "
                f"{self.hmc.num_chains} chains; train more members, or set hmc.start to 'prior'"
            )
        if self.export.member >= self.ensemble.members:
            raise ConfigError(
                f"export.member must be one of the {self.ensemble.members} members, counted from 0, got "
                f"{self.export.member}"
            )
        if self.score.rotation_images > self.data.test_images:
            raise ConfigError(
                f"score.rotation_images must not exceed data.test_images, got {self.score.rotation_images} of "
                f"{self.data.test_images}"
            )
        if self.export.run:
            self._check_sums()

    def _check_sums(self) -> None:
        """Refuse sizes whose products cannot be summed exactly, which the export would find after hours of HMC."""
        features, pixels = 1, 12 * self.data.nside**2
        fan_ins = []
        for width, patch in zip(self.model.features, self.model.patches, strict=True):
            fan_ins.append(features * patch)
            features, pixels = width, pixels // patch
        fan_ins.append(features * pixels)
        weight, activation = self.export.weight_bits, self.export.activation_bits
        # Activations behind a relu have no sign; the bias, at most as large as the sum, takes one bit more.
        largest = max(fan_ins) * (2**activation - 1) * 2 ** (weight - 1)
        bits = (2 * largest - 1).bit_length()
        if bits > _FLOAT32_EXACT_BITS:
            raise ConfigError(
                f"export.weight_bits {weight} and export.activation_bits {activation} may need sums of {bits} bits in "
                f"a layer of {max(fan_ins)} inputs, but float32 is exact to {_FLOAT32_EXACT_BITS}; take "
                f"{bits - _FLOAT32_EXACT_BITS} bits off one of them, or leave the export out with export.run = false"
            )


def quick_study() -> StudyConfig:
    """The variant behind `--quick`: every stage, small, but no RTL, which takes as long as all the rest of the export.

    Its HMC is too short to be a reference, and says so.
    """
    # Most of a minute is compilation. Equally many draws of every method, and as many turned images as test images,
    # are shapes that are compiled once.
    return StudyConfig(
        data=DataConfig(train_images=500, test_images=300),
        ensemble=EnsembleConfig(members=16, epochs=20),
        dropout=DropoutConfig(members=4, draws=4, epochs=20),
        hmc=ReferenceConfig(num_chains=2, num_warmup=20, num_draws=8, warmup_leapfrogs=32, max_leapfrogs=64),
        score=ScoreConfig(draws=16, rotation_images=300, angles=(0.0, 30.0, 60.0, 90.0, 180.0)),
        export=ExportConfig(epochs=4, rtl=False),
    )
