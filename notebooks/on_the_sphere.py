# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # Equivariance on the sphere, measured
#
# A digit's HEALPix map becomes coefficients; turning them is exact, sampling is not, and a meter says where a network
# loses what its theory promises. Open as a notebook with jupytext, or run as a script.

# %%
from functools import partial

import jax
import jax.numpy as jnp

from jaxgeo.data.digits import load_digits
from jaxgeo.equivariance.meter import measure, measure_oversampling
from jaxgeo.equivariance.report import report_equivariance
from jaxgeo.grids import projection, rotations
from jaxgeo.grids.latlon import soft_grid
from jaxgeo.harmonics import healpix, s2
from jaxgeo.harmonics.rotation import plan_rotation, rotate_coefficients
from jaxgeo.harmonics.spectra import power_spectrum
from jaxgeo.models.clebsch_gordan_network import (
    ClebschGordanNetwork,
    ClebschGordanNetworkConfig,
    plan_clebsch_gordan_network,
)
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenter, S2CNNSegmenterConfig, plan_s2cnn_segmenter
from jaxgeo.plotting.equivariance import equivariance_report, error_against_oversampling
from jaxgeo.plotting.sphere import mollweide_grid

# %% [markdown]
# ## A digit as coefficients
# Degrees below 12 of an nside-16 map. Analysis of HEALPix maps is a quadrature that is nearly right; three rounds of
# refinement make it as good as float32.

# %%
NSIDE, BANDLIMIT = 16, 12
digits = load_digits("sklearn", num_train=10, num_test=10)
plan = projection.plan_stereographic(nside=NSIDE, image_shape=digits.train_images.shape[1:])
upright = jnp.broadcast_to(rotations.about_y(jnp.asarray(jnp.pi / 2)), (10, 3, 3))
maps = projection.project(plan, jnp.asarray(digits.train_images), upright)[..., None]
transform = healpix.plan_healpix_transform(NSIDE, BANDLIMIT, order="nested")
native = healpix.healpix_analysis(transform, maps, iterations=3)
smooth = healpix.healpix_synthesis(transform, native)
coefficients = healpix.to_dense(transform, native)  # complex (image, degree, order, channel)

# %% [markdown]
# ## Turned exactly
# One rotation for all images, from the uniform distribution on SO(3). The power of each degree stays; nothing is
# interpolated, and turning back gives the digit again.

# %%
turn = rotations.haar_rotations(jax.random.key(0), ())
turning = plan_rotation(BANDLIMIT)
turned = rotate_coefficients(turning, coefficients, turn)
back = rotate_coefficients(turning, turned, turn.T)
spectra = power_spectrum(coefficients), power_spectrum(turned)
spectrum_error = float(jnp.max(jnp.abs(spectra[0] - spectra[1])) / jnp.max(spectra[0]))
return_error = float(jnp.linalg.norm(back - coefficients) / jnp.linalg.norm(coefficients))
print(f"power spectrum after turning: {spectrum_error:.1e} off; turned there and back: {return_error:.1e} off")
turned_maps = healpix.healpix_synthesis(transform, healpix.from_dense(transform, turned))
gallery = mollweide_grid(
    jnp.stack([maps[0, :, 0], smooth[0, :, 0], turned_maps[0, :, 0]]),
    ["as projected", "degrees below 12", "turned"],
    columns=3,
)

# %% [markdown]
# ## What a nonlinearity costs
# A rectifier makes degrees that its grid cannot hold. They fold back as aliases, which do not turn with the signal. On
# a finer grid fewer do.

# %%
by_factor = measure_oversampling(jax.nn.relu, 8, (1, 2, 4), key=jax.random.key(1), angles_deg=(45, 135), draws=2)
for factor, measurement in by_factor.items():
    print(f"oversampling {factor}: {measurement.mean:.1e}")
oversampling_figure = error_against_oversampling({"ReLU on the sphere, L = 8": by_factor})

# %% [markdown]
# ## Which layer does it
# A segmentation S2CNN, small and untrained, on the digits. Its convolutions are equivariant to rounding; what the
# network loses, it loses in its activations.

# %%
sizes = {"input_bandlimit": BANDLIMIT, "features": (8, 8), "bandlimits": (8, 8), "output_bandlimit": BANDLIMIT}
config = S2CNNSegmenterConfig(**sizes, kernel_max_beta=(0.2, 0.3, 0.2), oversampling=2.0)
network, network_plan = S2CNNSegmenter(config), plan_s2cnn_segmenter(config)
images = s2.synthesis(s2.plan_s2_transform(soft_grid(BANDLIMIT)), native[:2])  # (image, 24, 24, 1)
variables = jax.jit(network.init)(jax.random.key(2), network_plan, images)
layers = {"trunk/input_layer": ("native", "packed"), "trunk/hidden_layers_*": "packed"}
report = report_equivariance(
    partial(network.apply, variables),
    (network_plan, images),
    "soft",
    "soft",
    layers=layers,
    key=jax.random.key(3),
    angles_deg=(10, 90, 180),
)
print(report.table())
report_figure = equivariance_report(report, title="A small segmentation S2CNN")

# %% [markdown]
# ## No grid, no loss
# The Clebsch-Gordan network never leaves the coefficients: products of spherical harmonics are its nonlinearity, and
# its logits do not see a rotation at all, but for rounding.

# %%
invariant_config = ClebschGordanNetworkConfig(bandlimit=BANDLIMIT, features=(6, 6))
invariant_network, couplings = ClebschGordanNetwork(invariant_config), plan_clebsch_gordan_network(invariant_config)
parameters = jax.jit(invariant_network.init)(jax.random.key(4), couplings, coefficients)
logits = partial(invariant_network.apply, parameters, couplings)
invariance = measure(logits, coefficients, "dense", "invariant", key=jax.random.key(5), angles_deg=(10, 90, 180))
print(f"Clebsch-Gordan network, any angle: {invariance.worst:.1e}")
