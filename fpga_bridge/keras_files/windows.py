"""Settings of layers of Keras that move a window over one or two axes of space."""

from fpga_bridge.keras_files.qkeras_layer import Layer
from fpga_bridge.tracing.values import Tensor
from jaxgeo.errors import ConfigError


def sizes(layer: Layer, key: str, rank: int) -> tuple[int, ...]:
    """A setting of one number for each axis of space, or of one for all.

    Raises:
        ConfigError: other numbers than these, at least 1.
    """
    value = layer.config.get(key)
    each = (value,) * rank if isinstance(value, int) else value
    if not isinstance(each, list | tuple) or len(each) != rank or not all(isinstance(n, int) and n > 0 for n in each):
        raise ConfigError(f"{layer.where}: {key} must be {rank} numbers of at least 1, got {value!r}")
    return tuple(each)


def spatial(layer: Layer, x: Tensor) -> int:
    """How many axes of space the layer has; its input has as many and channels.

    Raises:
        ConfigError: an input of other axes.
    """
    rank = 1 if "1D" in layer.kind else 2
    if len(x.shape) != rank + 1:
        raise ConfigError(f"{layer.where} needs {rank} axes and channels, got a tensor of shape {x.shape}")
    return rank


def padding(layer: Layer) -> str:
    """Valid or same.

    Raises:
        ExportError: another padding.
    """
    value = layer.config.get("padding", "valid")
    if value not in ("valid", "same"):
        raise layer.refuse(f"has the padding {value}", "use valid or same, or ZeroPadding before it")
    return value


def window_shape(
    layer: Layer, x: Tensor, window: tuple[int, ...], strides: tuple[int, ...], padding: str
) -> tuple[int, ...]:
    """The axes of space behind windows that move by the strides.

    Raises:
        ConfigError: a window larger than its input.
    """
    ends = [n if padding == "same" else n - w + 1 for n, w in zip(x.shape, window, strict=False)]
    if min(ends) < 1:
        raise ConfigError(f"{layer.where}: a window of {window} does not fit into {x.shape[:-1]}")
    return tuple(-(-n // s) for n, s in zip(ends, strides, strict=True))
