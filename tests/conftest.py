"""Settings of the whole test run: strict numerics, and Hypothesis without a clock (this may be a shared machine)."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("KERAS_BACKEND", "jax")
# Compilation is most of the run: 0.6 of it by XLA's older emitters, and half of that without LLVM's optimisations.
# Commands are tested with the defaults.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false", "--xla_backend_optimization_level=0"]
)

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_nans", True)

hypothesis.settings.register_profile("jaxgeo", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("jaxgeo")


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Compiled programs of one module serve no other, and a worker that keeps them all grows beyond 4 GB."""
    yield
    jax.clear_caches()
