"""The report finds the layer that breaks equivariance, and tells it from what happens between layers."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from jaxgeo.equivariance import capture, report
from jaxgeo.equivariance.domain_names import resolve
from jaxgeo.equivariance.meter import drawn
from jaxgeo.errors import ConfigError, InputError
from jaxgeo.models import deepsphere, planar_cnn, s2cnn_classifier, spin_weighted_network

KEY = jax.random.key(5)
ROUNDING = 3e-6  # float32
SETTINGS = {"key": KEY, "angles_deg": (20, 150), "draws": 1}


class Mix(nn.Module):
    """One matrix for each degree: equivariant and linear."""

    @nn.compact
    def __call__(self, scale, x):
        weights = self.param("weights", nn.initializers.normal(1.0), (3, 2, 2))
        return scale * jnp.einsum("blmc,lcd->blmd", x, weights)


class Gate(nn.Module):
    """Multiplied by a function of an invariant: equivariant and nonlinear."""

    @nn.compact
    def __call__(self, x):
        return x * jnp.tanh(jnp.sum(jnp.abs(x) ** 2, axis=(1, 2), keepdims=True))


class Mask(nn.Module):
    """Without orders m < 0: linear, not equivariant."""

    @nn.compact
    def __call__(self, x):
        return x * (jnp.arange(-2, 3) >= 0)[None, None, :, None]


class Net(nn.Module):
    broken: bool = True

    @nn.compact
    def __call__(self, scale, x, train=False):
        mix = Mix(name="mix")
        x = mix(scale, mix(scale, x))
        if self.broken:
            x = jax.lax.complex(jnp.maximum(x.real, 0), x.imag)
        x = Gate(name="gate")(x)
        x = Mask(name="mask")(x) if self.broken else x
        return jnp.sum(jnp.abs(x) ** 2, axis=-2)


@pytest.fixture(scope="module")
def example():
    domain = resolve("dense", jnp.zeros((3, 5, 1), jnp.complex64))
    x = drawn(domain, KEY, (2,), 2)
    variables = Net().init(KEY, 1.0, x)
    return domain, x, variables


@pytest.fixture(scope="module")
def broken(example):
    domain, x, variables = example
    model = functools.partial(Net().apply, variables)
    return report.report_equivariance(
        model, (1.0, x), domain, "invariant", layers={"m*": "dense", "gate": ("dense", "dense")}, **SETTINGS
    )


def test_layers_come_in_the_order_of_their_calls(broken):
    assert [layer.name for layer in broken.layers] == ["mix", "mix#2", "gate", "mask", "output"]
    assert [layer.kind for layer in broken.layers] == ["linear", "linear", "nonlinear", "linear", None]
    assert all(layer.accumulated.shape == (2, 1) for layer in broken.layers)


def test_errors_stand_where_they_arise(broken):
    rows = {layer.name: layer for layer in broken.layers}
    for name in ("mix", "mix#2", "gate"):
        assert rows[name].own.max() < ROUNDING
    assert rows["mask"].own.min() > 0.1
    # The rectifier of the real part stands between the second mix and the gate.
    assert rows["gate"].before.min() > 0.05
    for name in ("mix", "mix#2", "mask", "output"):
        assert rows[name].before.max() < ROUNDING


def test_errors_accumulate_through_the_model(broken):
    rows = {layer.name: layer for layer in broken.layers}
    assert rows["mix#2"].accumulated.max() < ROUNDING
    assert rows["gate"].accumulated.min() > 0.05
    assert broken.output.own is None
    assert broken.output.accumulated.min() > 0.05
    assert broken.linear_error == rows["mask"].own.max()
    assert broken.nonlinear_error == rows["gate"].before.max()


def test_an_equivariant_model_reads_rounding(example):
    domain, x, variables = example
    model = functools.partial(Net(broken=False).apply, variables)
    whole = report.report_equivariance(model, (1.0, x), domain, "invariant", **SETTINGS)
    assert [layer.name for layer in whole.layers] == ["mix", "mix#2", "gate", "output"]
    assert whole.output.accumulated.max() < 2 * ROUNDING  # squares
    assert 0 < whole.linear_error < ROUNDING
    alone = report.report_equivariance(model, (1.0, x), domain, "invariant", layers={}, **SETTINGS)
    assert [layer.name for layer in alone.layers] == ["output"]
    assert alone.linear_error == 0


def test_a_list_of_functions_is_reported_alike(example):
    domain, x, _ = example
    stages = [
        report.Stage("double", lambda x: 2 * x, domain),
        report.Stage("real part", half_rectified, "dense"),
        report.Stage("power", lambda x: jnp.sum(jnp.abs(x) ** 2, axis=-2), "invariant"),
    ]
    result = report.report_stages(stages, x, domain, **SETTINGS)
    double, real_part, power, output = result.layers
    assert [layer.kind for layer in result.layers] == ["linear", "nonlinear", "nonlinear", None]
    assert double.own.max() < ROUNDING
    assert real_part.own.min() > 0.05
    assert power.own.max() < 2 * ROUNDING
    # The first defect is the only one: what it does by itself is what has accumulated.
    np.testing.assert_allclose(real_part.accumulated, real_part.own, rtol=1e-4)
    np.testing.assert_array_equal(output.accumulated, power.accumulated)


def half_rectified(x):
    return jax.lax.complex(jnp.maximum(x.real, 0), x.imag)


def test_named_values_of_any_function_are_reported_alike(example):
    domain, x, _ = example

    @jax.jit
    def model(scale, x):
        y = checkpoint_name(scale * x, "step")
        y = jax.checkpoint(lambda y: checkpoint_name(half_rectified(y), "step"))(y)
        y = checkpoint_name(jnp.sum(y), "no signal") * 0 + y
        return jnp.sum(jnp.abs(checkpoint_name(x + y, "sum")) ** 2, axis=-2)

    result = report.report_equivariance(model, (2.0, x), domain, "invariant", **SETTINGS)
    scaled, rectified, added, output = result.layers
    assert [layer.name for layer in result.layers] == ["step", "step#2", "sum", "output"]
    assert [layer.kind for layer in result.layers] == ["linear", "nonlinear", "linear", None]
    # The sum is handed both of its terms turned exactly.
    assert max(scaled.own.max(), added.own.max(), *(layer.before.max() for layer in result.layers)) < 2 * ROUNDING
    assert rectified.own.min() > 0.05
    assert added.accumulated.min() > 0.02 < output.accumulated.min()
    chosen = report.report_equivariance(model, (2.0, x), domain, "invariant", layers={"st*": "dense"}, **SETTINGS)
    np.testing.assert_array_equal(chosen.layers[1].own, rectified.own)
    assert [layer.name for layer in chosen.layers] == ["step", "step#2", "output"]
    with pytest.raises(ConfigError, match=r"matches 'pool'; matched by others: none"):
        report.report_equivariance(model, (2.0, x), domain, "invariant", layers={"pool": "dense"}, **SETTINGS)


def test_a_report_becomes_a_table_and_json(broken):
    content = json.loads(broken.to_json())
    assert content == broken.to_dict()
    assert content["angles_deg"] == [20.0, 150.0]
    assert content["layers"][-1]["own"] is None
    mask = content["layers"][3]
    assert mask["name"] == "mask"
    assert mask["own"]["mean"] == pytest.approx(np.mean(mask["own"]["mean_by_angle"]))
    lines = broken.table().splitlines()
    assert len(lines) == 6
    assert lines[0].split() == ["layer", "kind", "before", "own", "accumulated", "out_of_band"]
    assert lines[4].split()[:2] == ["mask", "linear"]


def test_an_error_that_is_no_number_is_not_dropped():
    fine, unknown = np.full((1, 1), 0.5), np.full((1, 1), np.nan)
    for layers in ((fine, unknown), (unknown, fine)):
        rows = [report.LayerErrors("layer", "linear", own, 0 * fine, fine, fine) for own in layers]
        assert np.isnan(report.EquivarianceReport(np.array([90.0]), tuple(rows)).linear_error)
        rows = [report.LayerErrors("layer", "nonlinear", fine, before, fine, fine) for before in layers]
        found = report.EquivarianceReport(np.array([90.0]), tuple(rows))
        assert np.isnan(found.nonlinear_error)

        def refuse(word):
            raise AssertionError(f"{word} is no JSON")

        content = json.loads(found.to_json(), parse_constant=refuse)
        assert content["nonlinear_error"] is None
        for row, before in zip(content["layers"], layers, strict=True):
            if before is fine:
                assert row["before"] == {"mean": 0.5, "worst": 0.5, "mean_by_angle": [0.5]}
            else:
                assert row["before"]["mean"] is row["before"]["worst"] is row["before"]["mean_by_angle"][0] is None
                assert "1 of 1 errors are not finite" in row["before"]["reason"]


class Outer(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Gate(name="inner")(x)


class Nested(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Outer(name="outer")(x)


def test_impossible_reports_are_refused(example):
    domain, x, variables = example
    model = functools.partial(Net().apply, variables)
    with pytest.raises(ConfigError, match=r"matches 'convolution_\*'; matched by others: none"):
        report.report_equivariance(model, (1.0, x), domain, "invariant", layers={"convolution_*": "dense"}, **SETTINGS)
    nested = functools.partial(Nested().apply, {})
    with pytest.raises(ConfigError, match="'outer' contains 'outer/inner'"):
        report.report_equivariance(nested, (x,), domain, "dense", layers={"outer*": "dense"}, **SETTINGS)
    with pytest.raises(InputError, match="the model was called without an array"):
        report.report_equivariance(model, (1.0,), domain, "invariant", **SETTINGS)
    with pytest.raises(ConfigError, match="names of their own"):
        report.report_stages([], x, domain, **SETTINGS)


def recognised(module, given, domain, x):
    """Paths of the modules that a report looks at by itself, and the names of their domains' classes."""
    shapes = jax.eval_shape(module.init, KEY, *given, x)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    calls = capture.calls_of_modules(lambda: module.apply(variables, *given, x))
    found = report._recognised_layers(calls, x, domain, {})
    return {path: tuple(type(side).__name__ for side in pair) for path, pair in found.items()}


def test_layers_of_networks_are_recognised_by_their_shapes():
    config = s2cnn_classifier.S2CNNClassifierConfig(
        input_bandlimit=4, features=(2, 3), bandlimits=(3, 2), kernel_max_beta=(0.2, 0.3), batch_norm=True
    )
    x = jnp.zeros((2, 8, 8, 1))
    network = s2cnn_classifier.S2CNNClassifier(config)
    found = recognised(network, (s2cnn_classifier.plan_s2cnn_classifier(config),), resolve("soft", x), x)
    # The trunk contains layers, and its own input and output are recognised too.
    assert found == {
        "trunk/input_layer": ("SphereCoefficients", "SO3Coefficients"),
        "trunk/norm_0": ("SO3Coefficients", "SO3Coefficients"),
        "trunk/hidden_layers_0": ("SO3Coefficients", "SO3Coefficients"),
        "trunk/norm_1": ("SO3Coefficients", "SO3Coefficients"),
        "out_layer": ("Invariant", "Invariant"),
    }
    config = deepsphere.DeepSphereConfig(num_classes=3, nside=2, features=(2,), terms=2, batch_norm=False)
    x = jnp.zeros((2, 48, 1))
    found = recognised(
        deepsphere.DeepSphereSegmenter(config), (deepsphere.plan_deepsphere(config),), resolve("nested", x), x
    )
    assert set(found) == {"down_0/conv", "bottom/conv", "up_0/conv", "head"}
    assert set(found.values()) == {("HealpixMap", "HealpixMap")}


def report_of(module, plan, x, domain):
    """By the layers that are recognised."""
    model = functools.partial(module.apply, jax.jit(module.init)(KEY, plan, x))
    settings = {"key": KEY, "angles_deg": (70,), "draws": 1}
    return report.report_equivariance(model, (plan, x), domain, "invariant", **settings)


def test_azimuthal_limits_and_gauss_legendre_grids_are_recognised():
    config = s2cnn_classifier.S2CNNClassifierConfig(
        input_bandlimit=5,
        features=(2, 3),
        bandlimits=(5, 4),
        kernel_max_beta=(0.2, 0.3),
        batch_norm=True,
        azimuthal_limit=2,
        latitudes="gauss_legendre",
    )
    domain = resolve("soft", jnp.zeros((10, 10, 1)))
    plan, x = s2cnn_classifier.plan_s2cnn_classifier(config), drawn(domain, KEY, (1,), 1)
    found = report_of(s2cnn_classifier.S2CNNClassifier(config), plan, x, domain)
    kinds = {layer.name.removeprefix("trunk/"): layer.kind for layer in found.layers}
    names = ["input_layer", "norm_0", "hidden_layers_0", "norm_1", "out_layer"]
    assert kinds == dict.fromkeys(names, "linear") | {"output": None}
    assert found.linear_error < ROUNDING
    assert found.nonlinear_error > 1e-3  # of a rectifier on the plain grid


def test_sets_of_spins_are_recognised():
    config = spin_weighted_network.SpinWeightedNetworkConfig(
        num_classes=2, input_bandlimit=4, spins=(0, 2, -1), features=(2, 3), bandlimits=(4, 4), anchors=None
    )
    domain = resolve("soft", jnp.zeros((8, 8, 1)))
    plan, x = spin_weighted_network.plan_spin_weighted_network(config), drawn(domain, KEY, (1,), 1)
    found = report_of(spin_weighted_network.SpinWeightedNetwork(config), plan, x, domain)
    kinds = {layer.name: layer.kind for layer in found.layers}
    assert kinds == {
        "convolution_0": "linear",
        "norm_0": "linear",
        "nonlinearity_0": "nonlinear",
        "convolution_1": "linear",
        "norm_1": "linear",
        "nonlinearity_1": "nonlinear",
        "out_layer": "linear",
        "output": None,
    }
    assert found.linear_error < ROUNDING
    assert found.nonlinear_error > 1e-3


def test_pictures_and_maps_of_pixels_are_reported_alike():
    picture = planar_cnn.CnnSegmenterConfig((2, 2), (3, 3), (1, 1), shortcuts=False, size=8, num_classes=1)
    map_of_pixels = deepsphere.DeepSphereConfig(num_classes=1, nside=2, features=(2,), terms=2, batch_norm=False)
    plans = deepsphere.plan_deepsphere(map_of_pixels)
    cases = {
        "soft": (planar_cnn.CnnSegmenter(picture), (), (8, 8, 1), {"input_layer": "soft", "out_layer": "soft"}),
        "nested": (deepsphere.DeepSphereSegmenter(map_of_pixels), (plans,), (48, 1), {"down_0/conv": "nested"}),
    }
    errors = {}
    for name, (module, given, shape, layers) in cases.items():
        domain = resolve(name, jnp.zeros(shape))
        x = drawn(domain, KEY, (1,), 1)
        model = functools.partial(module.apply, module.init(KEY, *given, x))
        settings = {"key": KEY, "angles_deg": (70,), "draws": 1}
        found = report.report_equivariance(model, (*given, x), domain, name, layers=layers, **settings)
        first, *_ = found.layers
        assert first.kind == "linear"
        errors[name] = float(first.own.max())
        assert found.output.accumulated.min() > 0.05
    # A picture's filter has a direction and no sphere; the graph's has no direction, but pixels for neighbours.
    assert errors["nested"] < errors["soft"]
    assert errors["soft"] > 0.3
