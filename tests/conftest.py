"""Settings of the whole test run: strict numerics, and Hypothesis without a clock (this may be a shared machine)."""

import gc
import os
import signal

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("KERAS_BACKEND", "jax")
# Compilation is most of the run: 0.6 of it by XLA's older emitters, and half of that without LLVM's optimisations.
# Subprocesses inherit it; one study of tests/study/test_resume.py runs with the defaults.
# One piece per program, because a test's worker has one core: parts would only be split, compiled and linked in turn.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_backend_optimization_level=0",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_nans", True)

pytest_plugins = ("golden_summary",)

hypothesis.settings.register_profile("jaxgeo", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("jaxgeo")


def pytest_collection_finish():
    """What is imported by now stays; the garbage collector need not walk it again and again."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _heed_interrupts():
    """A shell's background jobs, of which this test run may be one, hand down that SIGINT be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """Compiled programs of one module serve no other, and a worker that keeps them all grows beyond 4 GB."""
    yield
    jax.clear_caches()
