"""The HLS headers that hls4ml ships, compiled by g++ into a library that takes and gives words of two limbs."""

import ctypes
import random
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from fpga_bridge.emulation.words import Wide
from jaxgeo.layers.fixed_point import FixedPoint

Run = Callable[[int, int, int, list[int], int], list[int]]

WORDS = """
#include "ap_fixed.h"
typedef unsigned long long word;
template <class T> T put(const word *w) {
    T x;
    x.V = 0;
    for (int i = 0; i < T::width; ++i) x[i] = (w[i / 64] >> (i % 64)) & 1;
    return x;
}
template <class T, bool S> void get(T x, word *w) {
    w[0] = w[1] = 0;
    for (int i = 0; i < 128; ++i) {
        bool bit = i < T::width ? (bool)x[i] : S && (bool)x[T::width - 1];
        w[i / 64] |= (word)bit << (i % 64);
    }
}
template <class A, class B, bool S> void change(int n, const word *x, word *y) {
    for (int i = 0; i < n; ++i) { B b = put<A>(x + 2 * i); get<B, S>(b, y + 2 * i); }
}
"""


def change(source: FixedPoint, target: FixedPoint) -> str:
    """The call that assigns numbers of one type to another."""
    return f"change<{source}, {target}, {int(target.signed)}>(n, x, y)"


def compile_calls(folder: Path, text: str, calls: list[list[str]]) -> Run:
    """`run(what, case, count, inputs, outputs)`: the call of that kind and number, on so many numbers."""
    package = find_spec("hls4ml")
    assert package is not None
    assert package.submodule_search_locations is not None
    templates = Path(package.submodule_search_locations[0]) / "templates" / "vivado"
    cases = "\n".join(
        f"case {what}: switch (i) {{ {' '.join(f'case {i}: {call}; break;' for i, call in enumerate(row))} }} break;"
        for what, row in enumerate(calls)
    )
    entry = 'extern "C" void run(int what, int i, int n, const word *x, word *y) { switch (what) { CASES } }\n'
    (folder / "words.cpp").write_text(WORDS + text + entry.replace("CASES", cases))
    flags = ["-std=c++14", "-O0", "-w", "-shared", "-fPIC", f"-I{templates}", f"-I{templates / 'ap_types'}"]
    subprocess.run(["g++", *flags, "words.cpp", "-o", "words.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "words.so"))

    def run(what: int, case: int, count: int, inputs: list[int], outputs: int) -> list[int]:
        x = np.array([[v % 2**64, (v >> 64) % 2**64] for v in inputs] or [[0, 0]], np.uint64)
        y = np.zeros((outputs, 2), np.uint64)
        library.run(what, case, count, ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data))
        return signed(y[:, 1].tolist(), y[:, 0].tolist())

    return run


def signed(high: list[int], low: list[int]) -> list[int]:
    """Integers of 128 bits in two's complement from their limbs."""
    whole = [(int(a) % 2**64 << 64) | (int(b) % 2**64) for a, b in zip(high, low, strict=True)]
    return [value - 2**128 if value >> 127 else value for value in whole]


def integers(words) -> list[int]:
    """Python's integers of an array of words."""
    if isinstance(words, Wide):
        return signed(np.asarray(words.high).ravel().tolist(), np.asarray(words.low).ravel().tolist())
    return np.asarray(words).ravel().tolist()


def wide(values: list[int]) -> Wide:
    """The other way."""
    return Wide(jnp.asarray([v >> 64 for v in values], jnp.int64), jnp.asarray([v % 2**64 for v in values], jnp.uint64))


def sample(format: FixedPoint, count: int, seed: int) -> list[int]:
    """Words that a format holds: both ends, zero, ones, many sizes, ties of every place.

    Of a symmetric one without the lowest word, which no conversion yields: headers copy a value of the same type as it
    is, and would keep it.
    """
    draw = random.Random(seed)
    low, high = format.min_word, format.max_word
    values = [low, high, 0, min(1, high), max(-1, low)]
    while len(values) < count:
        size = draw.randrange(format.width)
        word = draw.choice([1 << size, (3 << size) >> 1, draw.getrandbits(format.width) >> size, (1 << size) + 1])
        values.append(min(max(draw.choice([word, -word]), low), high))
    return values[:count]
