"""A network as QKeras 0.9 on Keras 2 writes it to a file: its layers, its arrays, and the file."""

import json

import h5py
import numpy as np
from graph_tools import values


def bits(number, integer=0, **more):
    return {"class_name": "quantized_bits", "config": {"bits": number, "integer": integer, "alpha": 1, **more}}


STEM, MASK = values(0, 3, 3, 2, 4, scale=0.3), (values(1, 3, 3, 2, 4) > 0).astype(np.float32)
FOLDED, HEAD, HEAD_BIAS = values(2, 1, 1, 4, 3, scale=0.4), values(3, 27, 5, scale=0.3), values(4, 5, scale=0.3)
NORM = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), values(5, 4, 4), strict=True))
NORM2 = dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), values(6, 4, 3), strict=True))
for norm in (NORM, NORM2):
    # Variances are positive, and a rectifier behind the norm should be open for most inputs.
    norm.update(moving_variance=norm["moving_variance"] ** 2 + np.float32(1), beta=np.abs(norm["beta"]))


def entry(kind, before, **config):
    return {"class_name": kind, "config": config, "name": config["name"], "inbound_nodes": [[[before, 0, 0, {}]]]}


def qkeras_layers():
    """A pruned convolution, a norm, a folded convolution and a dense head, as QKeras 0.9 on Keras 2 writes them."""
    conv = {"strides": [1, 1], "padding": "valid", "dilation_rate": [1, 1], "data_format": "channels_last"}
    stem = {
        "name": "stem", "filters": 4, "kernel_size": [3, 3], **conv, "use_bias": False, "activation": "linear",
        "kernel_quantizer": bits(6), "bias_quantizer": bits(6),
    }  # fmt: skip
    return [
        {
            "class_name": "InputLayer",
            "config": {"batch_input_shape": [None, 8, 8, 2], "name": "in"},
            "name": "in",
            "inbound_nodes": [],
        },
        entry("QActivation", "in", name="entry", activation="quantized_bits(8,2,alpha=1)"),
        entry("PruneLowMagnitude", "entry", name="prune_stem", layer={"class_name": "QConv2D", "config": stem}),
        entry("MaxPooling2D", "prune_stem", name="pool", pool_size=[2, 2], strides=[2, 2], padding="valid"),
        entry("BatchNormalization", "pool", name="norm", axis=[3], epsilon=0.001, center=True, scale=True),
        entry("QActivation", "norm", name="act", activation="quantized_relu(6,0)"),
        entry(
            "QConv2DBatchnorm", "act", name="folded", filters=3, kernel_size=[1, 1], **conv, use_bias=False,
            epsilon=0.001, center=True, scale=True, kernel_quantizer=bits(5, 1), bias_quantizer=bits(8, 2),
            activation={"class_name": "quantized_relu", "config": {"bits": 6, "integer": 0, "relu_upper_bound": None}},
        ),
        entry("Flatten", "folded", name="flat"),
        entry("Dropout", "flat", name="drop", rate=0.5),
        entry(
            "QDense", "drop", name="head", units=5, use_bias=True, activation="linear", kernel_quantizer=bits(4),
            bias_quantizer=bits(6),
        ),
    ]  # fmt: skip


def qkeras_arrays():
    return {
        "prune_stem": {"stem/kernel:0": STEM, "prune_stem/mask:0": MASK, "prune_stem/threshold:0": np.float32(0.1)},
        "norm": {f"norm/{name}:0": array for name, array in NORM.items()},
        "folded": {"folded/kernel:0": FOLDED, "folded/iteration:0": np.int64(3)}
        | {f"folded/{name}:0": array for name, array in NORM2.items()},
        "head": {"head/kernel:0": HEAD, "head/bias:0": HEAD_BIAS},
    }


def write_model(path, layers, arrays, model_class="Model"):
    config = {"name": "net", "layers": layers, "input_layers": [["in", 0, 0]], "output_layers": [["head", 0, 0]]}
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": model_class, "config": config})
        root = file.create_group("model_weights")
        for layer, members in arrays.items():
            group = root.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in members]
            for name, array in members.items():
                group[name] = array
    return path
