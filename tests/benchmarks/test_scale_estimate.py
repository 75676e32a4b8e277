"""The estimate of scale: closed forms beside the shapes of the true network and beside XLA's own counts."""

import json
import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import scale_estimate, scale_formulas, scale_programs
from benchmarks.scale_formulas import Convolution, Plan
from jaxgeo.errors import ConfigError
from jaxgeo.layers.plane_convolution import convolve
from jaxgeo.models.resnet import ResNet, ResNetConfig, init_resnet
from jaxgeo.training import ensemble


def training(batch=64, block=1):
    return ensemble.TrainingConfig(
        epochs=300, batch_size=batch, schedule="step", warmup_fraction=0.0, optimizer="sgd", nesterov=True,
        members_per_block=block,
    )  # fmt: skip


def plan(members=50, accelerators=8, batch=64, block=1):
    return Plan(ResNetConfig(), training(batch, block), 32, 40_960, members, accelerators, 1.0)


@pytest.mark.parametrize(
    "config",
    [ResNetConfig(), ResNetConfig(depth=8, features=5, num_classes=3, channels=1), ResNetConfig(depth=14, norm="frn")],
)
def test_parameters_and_optimizer_are_those_of_the_network(config):
    params = jax.eval_shape(lambda key: init_resnet(key, config), jax.random.key(0))
    assert scale_formulas.parameters(config) == sum(leaf.size for leaf in jax.tree.leaves(params))
    state = jax.eval_shape(ensemble.make_optimizer(training(), 640).init, params)
    held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert scale_formulas.optimizer_bytes(scale_formulas.parameters(config)) == held


def test_the_published_network_has_274042_parameters():
    assert scale_formulas.parameters(ResNetConfig()) == 274_042


@pytest.mark.parametrize(("config", "size"), [(ResNetConfig(), 32), (ResNetConfig(depth=8, features=6), 15)])
def test_convolutions_are_those_that_the_network_traces(config, size):
    params = jax.eval_shape(lambda key: init_resnet(key, config), jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, size, size, config.channels), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda params, x: ResNet(config).apply({"params": params}, x))(params, image)
    found = Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name == "plane_convolution":
            x, kernel = (variable.aval.shape for variable in equation.invars)
            found[(kernel[0], kernel[2], kernel[3], x[1], equation.params["stride"])] += 1
    assert found == Counter(layer[:5] for layer in scale_formulas.convolutions(config, size))
    assert sum(found.values()) == config.depth + 1  # two projections more, and the head is none


LAYERS = [Convolution(3, 3, 8, 9), Convolution(3, 8, 5, 9, 2), Convolution(1, 5, 7, 5, 2), Convolution(3, 7, 4, 3)]


def shapes(layer, batch):
    x = jax.ShapeDtypeStruct((batch, layer.size, layer.size, layer.inputs), jnp.float32)
    return x, jax.ShapeDtypeStruct((layer.kernel, layer.kernel, layer.inputs, layer.outputs), jnp.float32)


@pytest.mark.parametrize(
    "layer", [*LAYERS, Convolution(3, 2, 3, 8, 2), Convolution(3, 1, 1, 1), Convolution(3, 1, 2, 2)]
)
def test_a_convolution_costs_what_xla_counts(layer):
    traced: Any = jax.jit(convolve, static_argnums=2).trace(*shapes(layer, 6), layer.stride)
    # As accelerators get it: on a CPU kernels are repeated, which costs operations and saves time.
    lowered = traced.lower(lowering_platforms=("cuda",))
    assert lowered.cost_analysis()["flops"] == 6 * layer.flops


def test_training_a_stack_costs_three_times_forward_but_for_the_first_images():
    batch, sizes = 6, [shapes(layer, 6) for layer in LAYERS]

    def loss(kernels, x):
        for layer, kernel in zip(LAYERS, kernels, strict=True):
            strides = (layer.stride, layer.stride)
            x = jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jnp.sum(x)

    step = jax.jit(jax.value_and_grad(loss))
    lowered: Any = step.lower([kernel for _, kernel in sizes], sizes[0][0])
    closed = batch * (3 * sum(layer.flops for layer in LAYERS) - LAYERS[0].flops)
    summing = batch * LAYERS[-1].outputs * LAYERS[-1].new_size ** 2 - 1
    assert lowered.cost_analysis()["flops"] == closed + summing
    # What is left after optimisation: no convolution is lost or made anew; the index arithmetic around them is small.
    assert lowered.compile().cost_analysis()["flops"] == pytest.approx(closed, rel=0.02)


def ring_all_reduce(arrays):
    """Sums by sending one chunk at a time to the next device; the sums and the numbers that each device sent."""
    devices = len(arrays)
    chunks = [np.split(array.copy(), devices) for array in arrays]
    sent = np.zeros(devices, int)
    for turn in range(2 * (devices - 1)):
        adding = turn < devices - 1
        # Device d begins with its own chunk; after the first half it holds the whole sum of chunk d + 1.
        start = 0 if adding else devices
        moved = [(device + start - turn) % devices for device in range(devices)]
        parcels = [chunks[device][moved[device]].copy() for device in range(devices)]
        for device, parcel in enumerate(parcels):
            target = (device + 1) % devices
            chunks[target][moved[device]] = chunks[target][moved[device]] + parcel if adding else parcel
            sent[device] += parcel.size
    return [np.concatenate(parts) for parts in chunks], sent


@pytest.mark.parametrize("devices", [1, 2, 4, 8])
def test_a_ring_all_reduce_sends_as_many_bytes(devices):
    rng = np.random.default_rng(devices)
    arrays = [rng.integers(0, 100, 48) for _ in range(devices)]
    sums, sent = ring_all_reduce(arrays)
    for found in sums:
        np.testing.assert_array_equal(found, sum(arrays))
    np.testing.assert_array_equal(4 * sent, scale_formulas.ring_bytes(4 * 48, devices))


HLO = """
  %gone = f32[7]{0} get-tuple-element(%all-reduce), index=0
  %all-reduce = (f32[1,10]{1,0}, f32[]{:T(128)}, /*index=2*/bf16[3,2]{1,0}) all-reduce(%a, %b, %c), channel_id=1
  ROOT %x.1 = u32[4]{0} all-gather-start(%y), dimensions={0}
  %x.2 = u32[4]{0} all-gather-done(%x.1)
"""


def test_collectives_are_read_from_a_program():
    assert scale_programs.collectives(HLO) == {
        "all-reduce": {"count": 1, "bytes": 40 + 4 + 12},
        "all-gather": {"count": 1, "bytes": 16},
    }
    assert scale_programs.collectives("%x = f32[3]{0} add(%y, %z)") == {}
    with pytest.raises(ConfigError, match="the size of f4 in all-reduce is not known"):
        scale_programs.collectives("  %x = f4[3]{0} all-reduce(%y)")


EPOCHS = """
import json
from benchmarks.scale_formulas import Plan, ResNetConfig, ensemble
from benchmarks.scale_programs import compile_epoch, compile_planned_epoch
training = ensemble.TrainingConfig(epochs=2, batch_size=8, optimizer="sgd", nesterov=True, members_per_block=1)
plan = Plan(ResNetConfig(depth=8, features=2), training, 8, 24, 6, 4, 1.0)
print(json.dumps([
    compile_epoch(4, 1, 16, (64,)), compile_epoch(4, 1, 32, (64,)), compile_epoch(1, 4, 2, (64,)),
    compile_planned_epoch(plan, 3, 1),
]))
"""


def test_the_epoch_program_holds_members_once_and_sends_gradients_along_data_alone():
    root = str(Path(scale_estimate.__file__).parents[1])
    # Nothing is run, so the machine code need not be good.
    quick = "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=4"
    flags = f"{os.environ['XLA_FLAGS']} {quick}"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", EPOCHS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    few, many, data, planned = json.loads(done.stdout.splitlines()[-1])
    assert few["collectives"] == many["collectives"] == {}
    # Four members more on each device: their state as an argument, and nowhere else. A member's key is 8 bytes of it,
    # the sum of its losses 4.
    state = 4 * few["parameters"] + scale_formulas.optimizer_bytes(few["parameters"])
    assert many["memory"]["arguments"] - few["memory"]["arguments"] == 4 * (state + 8 + 4)
    # Temporary arrays begin at multiples of 64 bytes.
    assert abs(many["memory"]["temporary"] - few["memory"]["temporary"]) <= 4 * 64
    # Gradients and loss of the block's two members, float32; XLA may send them in one piece or leaf by leaf.
    assert list(data["collectives"]) == ["all-reduce"]
    assert data["collectives"]["all-reduce"]["bytes"] == data["all_reduced_bytes"] == 2 * 4 * (data["parameters"] + 1)
    # ResNets, two on each device, with their images. XLA lays pieces at multiples of some bytes, and counts the loop's
    # numbers too.
    assert planned["collectives"] == {}
    assert 0 <= planned["memory"]["arguments"] - planned["closed_form_arguments"] <= 256


@given(members=st.integers(1, 64), accelerators=st.integers(1, 64), log_data=st.integers(0, 6), block=st.integers(1, 4))
def test_work_is_neither_lost_nor_made_by_the_mesh(members, accelerators, log_data, block):
    asked, data = plan(members, accelerators, block=block), 2**log_data
    if data > accelerators:
        with pytest.raises(ConfigError, match="must divide the batch and be at most"):
            scale_formulas.mesh_row(asked, data)
        return
    row = scale_formulas.mesh_row(asked, data)
    assert row["member"] * row["data"] + row["idle"] == accelerators
    assert row["idle"] >= 0
    assert row["member"] * row["members_per_device"] == members
    # The plan is one that the library takes.
    devices = row["member"]
    assert members // ensemble.block_size(members, asked.training) % devices == 0
    operations = members * 192_000 * scale_formulas.step_flops(asked.network, 32, 64)
    assert math.isclose(row["accelerator_hours"] * 3600 * 1e12, operations, rel_tol=1e-12)  # float64
    assert row["wall_hours"] <= row["accelerator_hours"] <= row["accelerator_hours_with_idle"] * (1 + 1e-12)
    assert (row["sent_bytes_per_step"] == 0) == (data == 1)


def test_a_number_of_devices_that_does_not_divide_the_batch_is_refused():
    with pytest.raises(ConfigError, match="a batch of 64 cannot be shared by 3 of 8 devices"):
        scale_formulas.mesh_row(plan(), 3)


def test_what_is_kept_for_gradients_is_counted():
    w, x = jax.ShapeDtypeStruct((10, 20), jnp.float32), jax.ShapeDtypeStruct((7, 10), jnp.float32)
    # The exponential is its own derivative; the product needs the examples, and the cosine of the sine is one array.
    assert scale_programs.kept_bytes(lambda w: jnp.sum(jnp.exp(w)), w) == 4 * 200
    assert scale_programs.kept_bytes(lambda w, x: jnp.sum(jnp.sin(x @ w)), w, x) == 4 * (70 + 140)


def test_the_temporary_memory_of_xla_is_a_column_where_it_was_asked(capsys):
    asked = plan(members=8)
    rows = [scale_formulas.mesh_row(asked, data) for data in (1, 2)]
    scale_estimate.print_table(asked, rows, [{"memory": {"temporary": 3 * 2**20}}, {"memory": {"temporary": 512}}])
    heads, _, *cells = (line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:])
    place = heads.index("XLA's temporary")
    assert heads[place - 1] == "activations"
    assert [row[place] for row in cells] == ["3 MiB", "512 B"]
    scale_estimate.print_table(asked, rows)
    assert "XLA" not in capsys.readouterr().out


def test_the_command_prints_a_table_and_one_json_object(capsys):
    assert (
        scale_estimate.main(["--formulas-only", "--members", "48", "--accelerators", "4", "--sustained-tflops", "2"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    found = json.loads(lines[-1])
    assert "274,042 parameters" in lines[0]
    assert "assumed 2 TFLOP/s" in lines[1]
    assert [(row["member"], row["data"]) for row in found["meshes"]] == [(4, 1), (2, 2), (1, 4)]
    assert found["steps"] == 192_000
    assert "xla" not in found


def test_what_cannot_be_estimated_is_one_sentence(capsys):
    assert scale_estimate.main(["--formulas-only", "--depth", "9"]) == 1
    assert capsys.readouterr().err.startswith("error: depth must be 6 n + 2")
    with pytest.raises(SystemExit):
        scale_estimate.main(["--sustained-tflops", "0"])
    assert "must be positive and finite" in capsys.readouterr().err
