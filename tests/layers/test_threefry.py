"""Threefry-2x32: published answers, JAX's own implementation, uniform words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.random import threefry_2x32

from jaxgeo.layers.threefry import random_words, threefry

WORD = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # the known answers that Random123 is published with
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers(counter, key, answer):
    assert tuple(map(int, threefry(tuple(map(jnp.uint32, key)), tuple(map(jnp.uint32, counter))))) == answer


@given(key=st.tuples(WORD, WORD), counter=st.tuples(WORD, WORD))
def test_the_bits_are_those_of_jax(key, counter):
    key, counter = jnp.array(key, jnp.uint32), jnp.array(counter, jnp.uint32)
    np.testing.assert_array_equal(jnp.stack(threefry(tuple(key), tuple(counter))), threefry_2x32(key, counter))


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_words_are_uniform_and_change_with_the_key(implementation):
    keys = jax.random.split(jax.random.key(0, impl=implementation), 2)
    words = np.asarray(jax.vmap(lambda key: random_words(key, 40_000))(keys))
    assert (words[0] != words[1]).mean() > 0.999  # equal by chance once in 4e9
    ones = (words[..., None] >> np.arange(32, dtype=np.uint32) & 1).mean((0, 1))
    np.testing.assert_allclose(ones, 0.5, atol=6 * 0.5 / 80_000**0.5)  # 6 standard errors, for 32 bits
    counts = np.bincount(words.reshape(-1) >> 24, minlength=256)
    chi2 = ((counts - 80_000 / 256) ** 2 / (80_000 / 256)).sum()
    assert 255 - 6 * 510**0.5 < chi2 < 255 + 6 * 510**0.5  # mean and 6 standard deviations of chi squared
