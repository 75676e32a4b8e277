"""The reference: Hamiltonian Monte Carlo on the log joint that the other methods were trained on."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgeo.posteriors import diagnostics
from jaxgeo.posteriors.hmc import cut_short, plan_hmc
from jaxgeo.posteriors.hmc_state import HmcConfig
from jaxgeo.posteriors.long_chains import sample_chains
from jaxgeo.progress import Progress
from jaxgeo.study.network import classifier, log_joint_of, log_probs_of
from jaxgeo.study.run_folder import RunFolder
from jaxgeo.study.values import plain
from jaxgeo.training.meshes import spread


def _sampler_config(run: RunFolder) -> HmcConfig:
    settings = run.config.hmc
    return HmcConfig(
        num_chains=settings.num_chains,
        num_warmup=settings.num_warmup,
        num_draws=settings.num_draws,
        thinning=settings.thinning,
        trajectory_length=settings.trajectory_length,
        warmup_leapfrogs=settings.warmup_leapfrogs,
        max_leapfrogs=settings.max_leapfrogs,
        target_acceptance=settings.target_acceptance,
    )


def run_stage(run: RunFolder, progress: Progress) -> dict[str, Any]:
    """Draws of every chain, their diagnostics and the verdict; saved as it goes, cut and resumed bit for bit."""
    config, settings = run.config, run.config.hmc
    model, maps, members = classifier(config), run.tree("project", "maps"), run.tree("train", "ensemble")
    joint = log_joint_of(config)
    sampler_config = _sampler_config(run)
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), members)
    sampler = plan_hmc(joint, like, sampler_config, spread("chain", settings.num_chains))
    inputs, labels = sampler.place((jnp.asarray(maps["train_images"]), jnp.asarray(maps["train_labels"])), False)
    # Members lie in different modes: chains that start there and agree afterwards have left them.
    start = members if settings.start == "ensemble" else None

    _, trace, _ = sample_chains(
        run.checkpoint_folder("sample", "chains"), sampler, jax.random.key(settings.seed), inputs, labels, start,
        every=settings.chunk, at_least_s=config.run.checkpoint_seconds, progress=progress.bar("HMC", "transitions"),
    )  # fmt: skip
    warm = slice(sampler_config.num_warmup, None)
    draws = jax.device_get(sampler.draws(trace.position))
    images = jnp.asarray(maps["test_images"])
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), draws)
    outputs = np.asarray(log_probs_of(model, flat, images)).reshape(*trace.position.shape[:2], -1)
    verdict = diagnostics.judge_convergence(
        outputs,
        trace.position,
        trace.diverging[:, warm],
        trace.acceptance[:, warm],
        cut_short(sampler_config, trace)[:, warm],
    )
    figures = {
        "converged": verdict.converged,
        "sentence": f"The HMC reference: {verdict.message[0].lower()}{verdict.message[1:]}",
        "chains": settings.num_chains,
        "draws": settings.num_draws,
        "divergences": verdict.divergences,
        "cut_short": verdict.cut_short,
        "acceptance": verdict.acceptance,
        "step_size": float(np.mean(trace.step_size[:, warm])),
        "leapfrogs": int(np.sum(trace.num_leapfrogs)),
        "function": plain(dataclasses.asdict(verdict.function)),
        "weights": plain(dataclasses.asdict(verdict.weights)),
    }
    return {
        "figures.json": figures,
        "draws.safetensors": draws,
        "diagnostics.safetensors": {
            "function_r_hat": diagnostics.split_rhat(outputs),
            "weight_r_hat": diagnostics.split_rhat(trace.position),
            "energy": trace.energy[:, warm],
            "divergent": trace.diverging[:, warm],
        },
    }
