"""Convergence diagnostics on sequences whose answer is known, and against NumPyro's and ArviZ's."""

import arviz
import numpy as np
import numpyro.diagnostics
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxgeo.errors import InputError
from jaxgeo.posteriors.diagnostics import bulk_ess, judge_convergence, rank_normalise, split_rhat, summarise


def independent(seed=0, shape=(4, 200, 30)):
    return np.random.default_rng(seed).normal(size=shape)


def test_split_rhat_by_hand():
    # Halves (0, 2), (0, 2) | (3, 5), (3, 5): means 1, 1, 4, 4; within 2, variance of the means 3.
    samples = np.array([[0.0, 2, 0, 2], [3, 5, 3, 5]])
    np.testing.assert_allclose(split_rhat(samples), np.sqrt((1 / 2 * 2 + 3) / 2), rtol=1e-12)  # float64


@given(seed=st.integers(0, 10**6), chains=st.integers(1, 4), draws=st.integers(4, 40))
def test_split_rhat_is_numpyros(seed, chains, draws):
    samples = np.cumsum(independent(seed, (chains, draws, 3)), axis=1)
    expected = numpyro.diagnostics.split_gelman_rubin(samples)
    np.testing.assert_allclose(split_rhat(samples), expected, rtol=1e-9)  # float64


def test_independent_draws_pass_and_shifted_chains_fail():
    samples = independent()
    assert split_rhat(samples).max() < 1.05  # 800 draws: 1 + O(1 / 100)
    shifted = samples + 3.0 * np.arange(4)[:, None, None]
    # Between-chain variance 15, within 1: about sqrt(1 + 15 * 8/7 * 6/8); at least 3 in any case.
    assert split_rhat(shifted).min() > 3.0


def test_a_drift_shows_in_a_single_chain():
    drift = independent(1, (1, 200, 5)) + np.linspace(0, 6, 200)[None, :, None]
    assert split_rhat(drift).min() > 1.5


def test_outputs_that_never_vary():
    samples = np.full((2, 6, 2), 0.1)
    samples[1, :, 1] = 0.7
    np.testing.assert_array_equal(split_rhat(samples), [1.0, np.inf])
    drift = np.repeat([[0.1, 0.7]], 6, axis=1).reshape(1, 12)  # constant in each half, at different values
    np.testing.assert_array_equal(split_rhat(drift), np.inf)
    assert bulk_ess(samples)[0] == 12
    assert summarise(samples).rhat_max == np.inf


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_ess_of_an_autoregressive_sequence(correlation):
    noise = np.random.default_rng(2).normal(size=(4, 3000, 8))
    samples = np.zeros_like(noise)
    samples[:, 0] = noise[:, 0]
    for t in range(1, 3000):
        samples[:, t] = correlation * samples[:, t - 1] + np.sqrt(1 - correlation**2) * noise[:, t]
    expected = 12_000 * (1 - correlation) / (1 + correlation)
    # The mean over 8 outputs of an estimate that scatters by about 10 % each.
    np.testing.assert_allclose(bulk_ess(samples).mean(), expected, rtol=0.15)
    np.testing.assert_allclose(bulk_ess(samples, rank_normalised=False).mean(), expected, rtol=0.15)


def test_bulk_ess_is_arvizs_up_to_the_truncation_rule():
    samples = np.cumsum(independent(3, (4, 100, 6)), axis=1) * 0.1 + independent(4, (4, 100, 6))
    expected = [arviz.ess(samples[..., i], method="bulk") for i in range(6)]
    # Both truncate the autocorrelations at the first negative pair, ArviZ with a correction of the last one.
    np.testing.assert_allclose(bulk_ess(samples), expected, rtol=0.15)


def test_ranks_are_untouched_by_monotone_maps():
    samples = independent(5, (2, 50, 3))
    np.testing.assert_array_equal(rank_normalise(samples), rank_normalise(np.exp(5 * samples)))
    np.testing.assert_allclose(rank_normalise(samples).mean(axis=(0, 1)), 0.0, atol=1e-12)  # symmetric scores


def good():
    return dict(
        outputs=independent(6, (4, 200, 5, 2)),
        weights=independent(7, (4, 200, 3)),
        diverging=np.zeros((4, 200), bool),
        acceptance=np.full((4, 200), 0.8),
    )


def test_a_converged_run_is_said_so_with_its_numbers():
    verdict = judge_convergence(**good())
    assert verdict.converged
    assert verdict.message.startswith("Converged: split R-hat in function space is at most 1.05 for 100.0 % of 10")
    assert "from 4 chains of 200 draws" in verdict.message
    assert verdict.function.outputs == 10
    assert verdict.weights.outputs == 3
    assert verdict.acceptance == pytest.approx(0.8)


def test_one_bad_output_is_enough_to_fail():
    run = good()
    run["outputs"][0, :, 0, 0] += 3.0
    verdict = judge_convergence(**run)
    assert not verdict.converged
    assert verdict.message.startswith("Not converged:")
    assert verdict.function.rhat_max > 1.2
    assert verdict.function.share_within == pytest.approx(0.9)


def test_bad_weights_alone_do_not_fail_since_units_may_be_permuted():
    run = good()
    run["weights"][0] += 10.0
    verdict = judge_convergence(**run)
    assert verdict.converged
    assert verdict.weights.rhat_max > 3


def test_divergences_are_counted_in_words():
    run = good()
    run["diverging"][1, 5:8] = True
    verdict = judge_convergence(**run)
    assert verdict.divergences == 3
    assert "3 transitions after the warm-up diverged" in verdict.message


def test_trajectories_cut_short_are_counted_in_words_where_they_are_known():
    run = good()
    assert judge_convergence(**run).cut_short is None
    whole = judge_convergence(**run, cut_short=np.zeros((4, 200), bool))
    assert whole.cut_short == 0
    assert "cut short" not in whole.message
    cut = np.zeros((4, 200), bool)
    cut[:, 10] = True
    verdict = judge_convergence(**run, cut_short=cut)
    assert verdict.cut_short == 4
    assert "4 of 800 trajectories after the warm-up were cut short" in verdict.message


def test_a_single_chain_never_passes():
    run = {name: value[:1] for name, value in good().items()}
    verdict = judge_convergence(**run)
    assert not verdict.converged
    assert "one chain cannot show" in verdict.message


def test_too_few_draws_and_nan_are_refused():
    with pytest.raises(InputError, match="at least 4 draws in each chain"):
        split_rhat(np.zeros((2, 3)))
    with pytest.raises(InputError, match="1 of 8 samples are NaN or infinite"):
        bulk_ess(np.array([[0, 1, 2, np.nan], [0, 1, 2, 3]]))
