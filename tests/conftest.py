"""Settings of the whole test run: strict numerics, and Hypothesis without a clock (this may be a shared machine)."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("KERAS_BACKEND", "jax")

import hypothesis
import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_nans", True)

hypothesis.settings.register_profile("jaxgeo", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("jaxgeo")
