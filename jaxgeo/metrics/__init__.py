"""Predictive log-probabilities `(draw, *batch, class)` and labels `(*batch,)` in, numbers out.

Nothing here knows where the probabilities came from: an ensemble, a Hamiltonian Monte Carlo run and an emulation
of firmware are judged by the same functions. `scorecard.score` gives every number at once with its errors; the
other modules hold one subject each, as pure functions that `jax.jit` takes. Entropies are in nats.
"""
