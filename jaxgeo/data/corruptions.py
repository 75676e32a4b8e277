"""Fifteen corruptions of small colour images at five severities, in the manner of CIFAR-10-C, made anew from a seed.

Noise, blur, weather and digital artefacts by NumPy, SciPy and Pillow alone. The published CIFAR-10-C files were made
once from the lossless images with OpenCV, ImageMagick and scikit-image; images made here are of the same kinds and
about as strong, not equal to them, so scores do not compare with published ones digit by digit. What differs:

- everywhere: other random numbers; results are rounded where the published program truncates (but for `pixelate` and
  `jpeg_compression`, which Pillow rounds in both); filters mirror the image at its border.
- `glass_blur`: neighbours are really exchanged, in a rising share of the places (a quarter to all, then all twice), and
  nothing is smoothed. The published program assigns views of one array, which copies one pixel over the other, and
  smooths by 0.05 to 0.4 pixels; with true exchanges those strengths did not raise the mean squared difference.
- `motion_blur`, `snow`: the one-sided Gaussian along a line is summed here, with bilinear interpolation, where the
  published program calls ImageMagick's.
- `fog`: the cloud has a random spectrum with the fall per octave of the published diamond-square fractal.
- `frost`: photographs of ice are replaced by needles and grains from filtered noise, mixed in with a weight of 0.15 to
  0.55 (with the published two weights and this ice the darkening of later severities made up for the ice).
- `elastic_transform`: a smooth field of displacements of 0.4 to 1.4 pixels (root mean square at 32 pixels), where the
  published one mixes a random affine map that shrinks with severity and a field of changing size and smoothness.
- all other strengths are the published ones; `motion_blur` at 3 and 4 differs in the far end of the line alone.

Lengths in pixels are those for 32 x 32 images, and are kept for others, but for `pixelate`, `zoom_blur` and
`elastic_transform`, which scale with the image.

References:
    Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    arXiv:1903.12261, and the program that made CIFAR-10-C, from which the strengths were read.
"""

import io
from collections.abc import Callable
from types import ModuleType
from typing import Literal, get_args

import numpy as np
import scipy.ndimage
from jaxtyping import UInt8

from jaxgeo.errors import InputError, ToolMissingError, check_one_of, check_whole

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
]

CORRUPTIONS: tuple[Corruption, ...] = get_args(Corruption)
SEVERITIES = (1, 2, 3, 4, 5)
_LEAST_SIZE = 8


def corrupt(
    images: UInt8[np.ndarray, "image row column 3"], corruption: Corruption, severity: int, seed: int = 0
) -> UInt8[np.ndarray, "image row column 3"]:
    """Corrupted copies of images.

    The same seed gives the same noise at every severity, so that severities differ in strength alone. An image's
    corruption depends on its place in the batch.

    Args:
        images: red, green and blue of 8 bits, at least 8 x 8 pixels.
        corruption: its name.
        severity: 1 to 5; there is no 0, which would be the image itself.
        seed: at least 0.

    Raises:
        ConfigError: unknown corruption, severity or seed.
        InputError: images of another shape or type.
        ToolMissingError: `pixelate` or `jpeg_compression`, and Pillow is not installed.
    """
    check_one_of("the corruption", corruption, CORRUPTIONS)
    check_whole("the severity (clean images are those that came)", severity, SEVERITIES[0], SEVERITIES[-1])
    check_whole("the seed", seed, 0)
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < _LEAST_SIZE or images.dtype != np.uint8:
        raise InputError(
            f"images must be uint8 of shape (image, row, column, 3) with at least {_LEAST_SIZE} rows and columns, got "
            f"{images.dtype} {images.shape}"
        )
    rng = np.random.default_rng([seed, CORRUPTIONS.index(corruption)])
    if not len(images):
        return images.copy()
    result = _FUNCTIONS[corruption](images / 255, severity - 1, rng)
    return np.rint(255 * np.clip(result, 0, 1)).astype(np.uint8)


def _gaussian_noise(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return x + (0.04, 0.06, 0.08, 0.09, 0.10)[level] * rng.normal(size=x.shape)


def _shot_noise(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    photons = (500, 250, 100, 75, 50)[level]
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    hit = rng.uniform(size=x.shape) < (0.01, 0.02, 0.03, 0.05, 0.07)[level]
    return np.where(hit, rng.integers(0, 2, x.shape), x)


def _defocus_blur(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[level]
    offsets = np.arange(-3, 4)
    disc = (offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2).astype(float)
    kernel = scipy.ndimage.gaussian_filter(disc / disc.sum(), softness, radius=1)
    return scipy.ndimage.correlate(x, kernel[None, :, :, None], mode="mirror")


def _smooth(x: np.ndarray, width: float) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(x, width, mode="mirror", axes=(1, 2))


def _glass_blur(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    share, sweeps = ((0.25, 1), (0.5, 1), (0.75, 1), (1.0, 1), (1.0, 2))[level]
    x = x.copy()
    number, rows, cols, _ = x.shape
    image = np.arange(number)
    for _ in range(sweeps):
        steps = rng.integers(-1, 1, (2, rows, cols, number))  # up or left by a pixel, or not
        steps = np.where(rng.uniform(size=steps.shape[1:])[None] < share, steps, 0)
        for row in range(rows - 1, 0, -1):
            for col in range(cols - 1, 0, -1):
                to_row, to_col = row + steps[0, row, col], col + steps[1, row, col]
                there, here = x[image, to_row, to_col], x[:, row, col].copy()
                x[:, row, col], x[image, to_row, to_col] = there, here
    return x


def _along_lines(x: np.ndarray, length: int, width: float, angles: np.ndarray) -> np.ndarray:
    """Weighted mean of each image (row, column, channel) and its copies moved along a line of its own angle."""
    distances = np.arange(length + 1)
    weights = np.exp(-((distances / width) ** 2) / 2)
    weights /= weights.sum()
    result = np.zeros_like(x)
    for i, (image, angle) in enumerate(zip(x, angles, strict=True)):
        for distance, weight in zip(distances, weights, strict=True):
            shift = distance * np.sin(angle), distance * np.cos(angle), 0
            result[i] += weight * scipy.ndimage.shift(image, shift, order=1, mode="mirror")
    return result


def _motion_blur(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    length, width = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[level]
    return _along_lines(x, length, width, rng.uniform(-np.pi / 4, np.pi / 4, len(x)))


def _zoomed(x: np.ndarray, factor: float) -> np.ndarray:
    """Images magnified about their middle by a factor of at least 1, in the same frame, by linear interpolation."""

    def weights(size: int) -> np.ndarray:
        pixels = np.arange(size)
        middle = (size - 1) / 2
        places = middle + (pixels - middle) / factor
        return np.maximum(1 - np.abs(places[:, None] - pixels[None]), 0)

    return np.einsum("rs,nstc,ut->nruc", weights(x.shape[1]), x, weights(x.shape[2]), optimize=True)


def _zoom_blur(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    factors = 1 + 0.01 * np.arange((6, 11, 16, 21, 26)[level])
    return (x + sum(_zoomed(x, factor) for factor in factors)) / (len(factors) + 1)


def _snow(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    mean, spread, size, threshold, length, width, kept = (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    )[level]
    flakes = _zoomed(mean + spread * rng.normal(size=(*x.shape[:3], 1)), size)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    flakes = _along_lines(flakes, length, width, rng.uniform(-0.75 * np.pi, -0.25 * np.pi, len(x)))
    grey = x @ np.array([0.299, 0.587, 0.114])
    x = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey[..., None] + 0.5)
    return x + flakes + flakes[:, ::-1, ::-1]


def _to_unit_range(x: np.ndarray) -> np.ndarray:
    low, high = x.min((1, 2), keepdims=True), x.max((1, 2), keepdims=True)
    return (x - low) / (high - low)


def _cloud(shape: tuple[int, ...], fall: float, rng: np.random.Generator) -> np.ndarray:
    """Random fields (image, row, column, 1) in [0, 1] whose amplitude falls by this factor with each octave."""
    number, rows, cols = shape[:3]
    frequency = np.hypot(rows * np.fft.fftfreq(rows)[:, None], cols * np.fft.rfftfreq(cols)[None])
    # In two dimensions an octave has as many more waves as its frequencies are higher, hence the further 1.
    amplitude = np.where(frequency > 0, np.maximum(frequency, 1) ** -(1 + np.log2(fall)), 0)
    waves = np.fft.rfft2(rng.normal(size=(number, rows, cols))) * amplitude[None]
    return _to_unit_range(np.fft.irfft2(waves, (rows, cols))[..., None])


def _fog(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    strength, fall = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[level]
    brightest = x.max((1, 2, 3), keepdims=True)
    return (x + strength * _cloud(x.shape, fall, rng)) * brightest / (brightest + strength)


def _frost(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    ice = (0.15, 0.25, 0.35, 0.45, 0.55)[level]
    grains = _cloud(x.shape, 1.5, rng)
    needles = rng.normal(size=(*x.shape[:3], 1))
    needles = _to_unit_range(_along_lines(needles, 6, 4.0, rng.uniform(0, np.pi, len(x))))
    # Ice is white with a touch of blue.
    texture = (0.4 + 0.3 * grains + 0.3 * needles) * np.array([0.85, 0.95, 1.0])
    return x + ice * (texture - x)


def _brightness(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    # The value of hue, saturation, value is the largest channel; with the other two held, channels scale with it.
    value = x.max(-1, keepdims=True)
    brighter = np.minimum(value + (0.05, 0.1, 0.15, 0.2, 0.3)[level], 1)
    return np.where(value > 0, x * brighter / np.where(value > 0, value, 1), brighter)


def _contrast(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    means = x.mean((1, 2), keepdims=True)
    return means + (0.75, 0.5, 0.4, 0.3, 0.15)[level] * (x - means)


def _elastic_transform(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    number, rows, cols, channels = x.shape
    size = min(rows, cols) / 32
    field = _smooth(rng.normal(size=(number, rows, cols, 2)), 2 * size)
    field *= (0.4, 0.6, 0.85, 1.1, 1.4)[level] * size / np.sqrt((field**2).mean((1, 2), keepdims=True))
    places = [np.arange(rows)[:, None] + field[..., 0], np.arange(cols)[None] + field[..., 1]]
    result = np.empty_like(x)
    for i in range(number):
        for channel in range(channels):
            result[i, ..., channel] = scipy.ndimage.map_coordinates(
                x[i, ..., channel], [place[i] for place in places], order=1, mode="mirror"
            )
    return result


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise ToolMissingError(
            f"this corruption is made by Pillow, which cannot be imported ({error}); pip install pillow"
        ) from error
    return Image


def _pixelate(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    image_module = _pillow()
    rows, cols = x.shape[1:3]
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[level]
    small, full = (int(share * cols), int(share * rows)), (cols, rows)
    box = image_module.Resampling.BOX
    pictures = [image_module.fromarray(image).resize(small, box).resize(full, box) for image in _bytes(x)]
    return np.stack([np.asarray(picture) for picture in pictures]) / 255


def _jpeg_compression(x: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    image_module = _pillow()
    result = np.empty_like(x)
    for i, image in enumerate(_bytes(x)):
        stream = io.BytesIO()
        image_module.fromarray(image).save(stream, "JPEG", quality=(80, 65, 58, 50, 40)[level])
        with image_module.open(stream) as picture:
            result[i] = np.asarray(picture) / 255
    return result


def _bytes(x: np.ndarray) -> np.ndarray:
    return np.rint(255 * x).astype(np.uint8)


_FUNCTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
