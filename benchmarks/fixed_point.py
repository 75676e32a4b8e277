"""Two ways to fixed point on one network, data and budget: linen with straight-through quantisers, or HGQ2 on Keras.

Both start from the same float parameters, use the same formats in every layer, the same optimiser, schedule, batch
size and number of epochs, and end in hls4ml's compiled C++. Prints a table, then one JSON object as the last line.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import hls4ml
import jax
import jax.numpy as jnp
import keras
import numpy as np
from hgq.config import QuantizerConfig
from hgq.layers import QConv1D, QDense

from benchmarks.timing import timed
from fpga_bridge import ladder
from fpga_bridge.hls.project import quiet
from jaxgeo.data.digits import load_digits
from jaxgeo.grids.projection import plan_stereographic, project
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.linear import LinearPrecision
from jaxgeo.models.healpix_classifier import ClassifierPrecision, HealpixClassifier, HealpixClassifierConfig
from jaxgeo.training.quantisation import choose_precision, finetune


def maps_of_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    digits = load_digits()
    plan = plan_stereographic(8, digits.train_images.shape[1:])

    def maps(images):
        upright = jnp.broadcast_to(jnp.eye(3), (len(images), 3, 3))
        return np.asarray(project(plan, jnp.asarray(images), upright))[..., None]

    return maps(digits.train_images), digits.train_labels, maps(digits.test_images), digits.test_labels


def apply_of(config: HealpixClassifierConfig) -> Callable:
    model = HealpixClassifier(config)
    return lambda params, x: model.apply({"params": params}, x)


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits, -1) == labels))


def bench_linen(config, params, data, args, folder: Path) -> dict[str, float]:
    train_x, train_y, test_x, test_y = data
    apply = apply_of(config)

    def tune(params, key):
        return finetune(
            apply,
            params,
            jnp.asarray(train_x),
            jnp.asarray(train_y),
            key,
            epochs=args.epochs,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
        )[0]

    key = jax.random.key(args.seed)
    compiled, compile_s = timed(lambda: jax.jit(tune).lower(params, key).compile())
    tuned, train_s = timed(lambda: compiled(params, key))
    members = jax.tree.map(lambda leaf: jnp.stack([leaf] * args.members), params)
    keys = jax.random.split(key, args.members)
    together = jax.jit(jax.vmap(tune)).lower(members, keys).compile()
    _, members_s = timed(lambda: together(members, keys))
    result = ladder.climb(apply_of(dataclasses.replace(config, precision=None)), apply, tuned, test_x, folder)
    fixed, emulated = result.outputs["fixed point in JAX"], result.outputs["hls4ml C++"]
    return {
        "accuracy_tuned": accuracy(fixed, test_y),
        "compile_s": compile_s,
        "train_s": train_s,
        "train_s_per_member_in_vmap": members_s / args.members,
        "hls_equal_share": float(np.mean(fixed == emulated)),
        "values_compared": int(fixed.size),
    }


def hgq_model(config: HealpixClassifierConfig, params: Any) -> keras.Model:
    """The same network with the same formats, written a second time."""
    precision = config.precision
    assert precision is not None

    def quantizer(format: FixedPoint, place: str) -> QuantizerConfig:
        signed = int(format.signed)
        return QuantizerConfig(
            "kif",
            place,
            k0=signed,
            i0=format.integer - signed,
            f0=format.fraction,
            round_mode="RND",
            overflow_mode="SAT",
            trainable=False,
            homogeneous_axis=None,
            heterogeneous_axis=(),  # one format for the whole tensor, as in linen
        )

    def configs(incoming: FixedPoint, layer: LinearPrecision, last: bool) -> dict[str, Any]:
        result = {"oq_conf": quantizer(layer.result, "datalane"), "enable_oq": True} if last else {}
        return {
            "iq_conf": quantizer(incoming, "datalane"),
            "kq_conf": quantizer(layer.weight, "weight"),
            "bq_conf": quantizer(layer.bias, "bias"),
            "enable_ebops": False,
            **result,
        }

    x = entry = keras.Input((12 * config.nside**2, config.channels))
    incoming = precision.input
    for i, (features, patch) in enumerate(zip(config.features, config.patches, strict=True)):
        settings = configs(incoming, precision.layers[i], last=False)
        x = QConv1D(features, patch, strides=patch, activation="relu", name=f"conv_{i}", **settings)(x)
        incoming = precision.layers[i].result
    x = keras.layers.Flatten()(x)
    x = QDense(config.num_classes, name="head", **configs(incoming, precision.layers[-1], last=True))(x)
    model = keras.Model(entry, x)
    for name in [*(f"conv_{i}" for i in range(len(config.features))), "head"]:
        source, layer = params[name].get("dense", params[name]), model.get_layer(name)
        kernel = layer._kernel if hasattr(layer, "_kernel") else layer.kernel
        kernel.assign(np.asarray(source["kernel"]).reshape(kernel.shape))
        layer.bias.assign(source["bias"])
    return model


def bench_hgq(config, params, data, args, folder: Path) -> dict[str, float | str]:
    train_x, train_y, test_x, test_y = data
    model = hgq_model(config, params)
    calibrated = np.asarray(model(test_x))
    reference = np.asarray(apply_of(config)(params, test_x))
    steps = args.epochs * (len(train_x) // args.batch_size)
    schedule = keras.optimizers.schedules.CosineDecay(args.learning_rate, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(schedule), loss=loss)
    keras.utils.set_random_seed(args.seed)
    settings = {"batch_size": args.batch_size, "verbose": 0}
    marks = [time.perf_counter()]
    stopwatch = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: marks.append(time.perf_counter()))
    model.fit(train_x, train_y, epochs=args.epochs, callbacks=[stopwatch], **settings)
    epoch_s = np.diff(marks)
    steady_s = float(np.median(epoch_s[1:]))  # the first epoch compiles
    compile_s, fit_s = float(epoch_s[0]) - steady_s, args.epochs * steady_s
    outputs = np.asarray(model.predict(test_x, verbose=0))
    with quiet():
        project = hls4ml.converters.convert_from_keras_model(
            model,
            output_dir=str(folder),
            backend="Vitis",
            io_type="io_parallel",
            hls_config={"Model": {"Precision": "ap_fixed<1,0>", "ReuseFactor": 1}},
        )
        project.compile()
        emulated = project.predict(np.ascontiguousarray(test_x)).reshape(outputs.shape)
    return {
        "calibrated_equals_linen": float(np.mean(calibrated == reference)),
        "accuracy_tuned": accuracy(outputs, test_y),
        "compile_s": compile_s,
        "train_s": fit_s,
        "hls_equal_share": float(np.mean(outputs == emulated)),
        "values_compared": int(outputs.size),
        "vmap": try_vmap(model, test_x[:8], args.members),
    }


def try_vmap(model: keras.Model, x: np.ndarray, members: int) -> str:
    """Whether gradients of several members come out of one vmapped call of the stateless form."""
    trainable = [jnp.stack([v.value] * members) for v in model.trainable_variables]
    rest = [v.value for v in model.non_trainable_variables]

    def loss(trainable):
        outputs, _ = model.stateless_call(trainable, rest, jnp.asarray(x), training=True)
        return jnp.mean(outputs**2)

    try:
        jax.block_until_ready(jax.vmap(jax.grad(loss))(trainable))
    except Exception as error:  # whatever it raises is the finding
        return f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return "works through stateless_call"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fixed_point", description=__doc__)
    parser.add_argument("--epochs", type=int, default=15, help="of fine-tuning, at least 2")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--weight-bits", type=int, default=4)
    parser.add_argument("--activation-bits", type=int, default=6)
    parser.add_argument("--members", type=int, default=4, help="fine-tuned together in the vmapped run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    data = maps_of_digits()
    train_x, train_y, test_x, test_y = data
    plain = HealpixClassifierConfig()
    key = jax.random.key(args.seed)
    params = HealpixClassifier(plain).init(key, train_x[:1])["params"]
    inputs, labels = jnp.asarray(train_x), jnp.asarray(train_y)
    params, _ = finetune(apply_of(plain), params, inputs, labels, key, epochs=60, learning_rate=5e-3)
    precision: ClassifierPrecision = choose_precision(
        plain, params, inputs[:500], weight_bits=args.weight_bits, activation_bits=args.activation_bits
    )
    config = dataclasses.replace(plain, precision=precision)
    figures: dict[str, Any] = {
        **vars(args),
        "accuracy_float": accuracy(apply_of(plain)(params, test_x), test_y),
        "accuracy_calibrated": accuracy(apply_of(config)(params, test_x), test_y),
    }
    with tempfile.TemporaryDirectory() as folder:
        figures["linen"] = bench_linen(config, params, data, args, Path(folder) / "linen")
        figures["hgq2"] = bench_hgq(config, params, data, args, Path(folder) / "hgq2")
    print(f"accuracy in float {figures['accuracy_float']:.4f}, calibrated {figures['accuracy_calibrated']:.4f}")
    for row in dict.fromkeys([*figures["linen"], *figures["hgq2"]]):
        cells = [figures[way].get(row, "-") for way in ("linen", "hgq2")]
        print(f"{row:28}" + "".join(f"  {c:<14.4f}" if isinstance(c, float) else f"  {c!s:<14}" for c in cells))
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
