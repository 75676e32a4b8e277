"""A run in ArviZ's words: the right transitions, the worst outputs, and pictures that hold every draw."""

import arviz
import numpy as np
import pytest

from jaxgeo.errors import ConfigError, InputError
from jaxgeo.posteriors.hmc_state import HmcConfig, HmcTrace
from jaxgeo.posteriors.inference_data import figures, to_inference_data, worst

CONFIG = HmcConfig(num_chains=2, num_warmup=3, num_draws=20, thinning=2)
rng = np.random.default_rng(0)


def run():
    """2 chains, 20 draws of 5 weights after 3 + 2 * 20 transitions; the chains of weight 3 sit apart."""
    position = rng.normal(size=(2, 20, 5))
    position[1, :, 3] += 9.0
    per_transition = {name: rng.normal(size=(2, 43)) for name in ("potential_energy", "energy", "acceptance")}
    steps = np.broadcast_to(np.arange(43), (2, 43))
    return HmcTrace(
        position, **per_transition, diverging=steps == 6, num_leapfrogs=steps, step_size=per_transition["energy"]
    )


@pytest.fixture(scope="module")
def data():
    outputs = rng.normal(size=(2, 20, 3, 2))
    outputs[0, :, 2, 1] -= 5.0
    trace = run()
    return trace, outputs, to_inference_data(trace, CONFIG, outputs, 2)


def test_what_agrees_least_is_taken_along_and_named(data):
    trace, outputs, found = data
    assert worst(outputs, 1) == [(2, 1)]
    assert len(worst(outputs, 100)) == 6
    assert str(found.posterior.output_index.values[0]) == "2, 1"
    assert str(found.posterior.weight_index.values[0]) == "3"
    np.testing.assert_array_equal(found.posterior.output[..., 0], outputs[..., 2, 1])
    np.testing.assert_array_equal(found.posterior.weight[..., 0], trace.position[..., 3])


def test_statistics_are_those_of_the_transitions_that_led_to_the_draws(data):
    trace, _, found = data
    np.testing.assert_array_equal(found.sample_stats.n_steps[0], np.arange(4, 43, 2))  # the 5th, 7th, ... transition
    np.testing.assert_array_equal(found.sample_stats.lp, -trace.potential_energy[:, 4::2])
    assert int(found.sample_stats.diverging.sum()) == 2
    energy = trace.energy[:, 4::2]
    expected = np.mean(np.diff(energy) ** 2, axis=1) / np.var(energy, axis=1, ddof=0)
    np.testing.assert_allclose(arviz.bfmi(found), expected, rtol=0.06)  # ArviZ's variance may divide by one less


def test_pictures_hold_all_draws_and_nothing_stays_open(data):
    import matplotlib.pyplot as plt

    pictures = figures(data[2])
    assert set(pictures) == {"trace", "rank", "ess", "energy"}
    assert plt.get_fignums() == []
    # Rank histograms: one panel for each quantity, in which the bars of each chain add up to its draws.
    panels = [ax for ax in pictures["rank"].axes if ax.patches]
    assert len(panels) == 4
    for ax in panels:
        # 40 ranks in 10 bins, as densities of each chain.
        bars = np.asarray([bar.get_height() for bar in ax.patches]).reshape(2, 10)
        np.testing.assert_allclose(4 * bars.sum(axis=1), 1.0, atol=1e-12)  # float64
    lowest = [np.asarray([bar.get_height() for bar in panels[i].patches])[6:10] for i in (0, 2)]
    np.testing.assert_array_equal(lowest, 0.0)  # of the chains that sit apart no draw ranks high
    lines = [line for line in pictures["trace"].axes[1].lines if len(line.get_ydata()) == 20]
    assert len(lines) == 2


def test_what_does_not_fit_is_refused(data):
    trace, outputs, found = data
    with pytest.raises(InputError, match="43 in all, got 40"):
        to_inference_data(trace._replace(energy=trace.energy[:, 3:]), CONFIG, outputs)
    with pytest.raises(InputError, match="2 chains and 20 draws, got"):
        to_inference_data(trace, CONFIG, outputs[:, :19])
    with pytest.raises(ConfigError, match="at least 1 output is needed, got 0"):
        worst(outputs, 0)
    with pytest.raises(ConfigError, match="got pairs"):
        figures(found, ["pairs"])
