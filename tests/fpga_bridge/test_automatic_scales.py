"""Automatic scales of QKeras: what its own program found, least squares searched by hand, and a file that has them."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fpga_bridge.keras_files.automatic_scales import binary_words, bits_words, ternary_words
from fpga_bridge.keras_files.qkeras_quantizers import parse_quantizer, quantize_weight
from fpga_bridge.typed_graph.precision import words
from jaxgeo.errors import ConfigError, ExportError
from jaxgeo.layers.fixed_point import FixedPoint

REFERENCE = json.loads((Path(__file__).parents[1] / "references/qkeras_automatic_scales.json").read_text())
# Weights whose largest is 1 and which are five times as many with each half: least squares takes more than five steps.
CASCADE = np.concatenate([np.full(5**k, 2.0**-k, np.float32) for k in range(8)])[:, None]


def rounded(text, x):
    return quantize_weight(parse_quantizer(text, "here"), x)


@pytest.mark.parametrize("case", REFERENCE["cases"], ids=lambda case: f"{case['quantizer']} {case['array']}")
def test_words_and_scales_are_those_of_the_published_program(case):
    x = np.float32(REFERENCE["unit"]) * np.array(REFERENCE["arrays"][case["array"]], np.float32)
    quantizer = parse_quantizer(case["quantizer"], "here")
    # A word of quantized_bits is in units of 2^(integer - bits + 1), which QKeras' scale leaves out.
    unit = quantizer.parameters.get("integer", 0) - quantizer.parameters.get("bits", 1) + 1
    steps = np.broadcast_to(np.exp2(np.array(case["exponents"], float) + unit), x.shape)
    found = quantize_weight(quantizer, x)
    np.testing.assert_array_equal(found.value, np.array(case["words"]).reshape(x.shape) * steps)
    held = found.value / found.format.step
    assert (held == np.rint(held)).all()
    assert found.format.min_word <= held.min() <= held.max() <= found.format.max_word
    assert words(found)[1] <= found.format.fraction


@given(
    x=hnp.arrays(np.float32, (6, 3), elements=st.integers(-500, 500).map(lambda n: np.float32(n / 64))),
    unrolls=st.integers(1, 6),
)
@settings(max_examples=60)
def test_three_values_are_signs_beyond_half_of_the_scale_before(x, unrolls):
    def power(value):  # log2 of a quotient of small integers lies off every half by more than the added 1e-7
        return 2.0 ** np.rint(np.log2(value + 1e-7))

    found, scales = ternary_words(x, unrolls), []
    for channel in x.astype(np.float64).T:
        scale = power(2 * np.abs(channel).max() / 3)
        for _ in range(unrolls):
            chosen = np.where(np.abs(channel) > scale / 2, np.sign(channel), 0)
            count = np.abs(chosen).sum()
            scale = power(np.abs(channel[chosen != 0]).mean() if count else 0)
        scales.append((scale, chosen))
    np.testing.assert_array_equal(found.scale, [[scale for scale, _ in scales]])
    np.testing.assert_array_equal(found.words, np.stack([chosen for _, chosen in scales], 1))


def test_signs_take_the_power_of_two_next_to_their_mean_size():
    x = np.array([[-3.0, 0.1], [1.0, -0.1], [0.0, 0.7]], np.float32)
    found = binary_words(x, False)
    np.testing.assert_array_equal(found.words, [[-1, 1], [1, -1], [1, 1]])
    np.testing.assert_array_equal(found.scale, [[1.0, 0.25]])  # of 4/3 and 0.3
    # Sizes of negative weights do not count where those become 0.
    np.testing.assert_array_equal(binary_words(x, True).scale, [[0.5, 0.5]])  # of 1/2 and 0.4
    np.testing.assert_array_equal(binary_words(x, False, (-1, -1)).scale, [[0.5, 0.5]])


def test_the_published_version_keeps_the_words_of_the_scale_before_and_the_next_one_finds_them_anew():
    def settings(**more):
        return {"class_name": "quantized_bits", "config": {"bits": 2, "symmetric": 1, "alpha": "auto_po2", **more}}

    # Counts and step by both programs on the same array: QKeras 0.9.0, and its repository at 78ea90f.
    for config, count in ((settings(), 3906), (settings(post_training_scale=None), 19531)):
        value = rounded(config, CASCADE).value
        assert set(value.ravel().tolist()) == {0, 2.0**-5}
        assert int((value != 0).sum()) == count
    assert (bits_words(CASCADE, 1).words != bits_words(CASCADE, 1, anew=True).words).any()


def test_channels_of_zeros_stay_zero_and_need_no_bits():
    x = np.zeros((4, 2), np.float32)
    for text in ("ternary(alpha='auto_po2')", "quantized_bits(4,0,1,alpha='auto_po2')", "binary(1,'auto_po2')"):
        x[:, 1] = -1  # which is 0 too, where the values are 0 and 1
        found = rounded(text, x)
        assert not found.value[:, 0].any() or "binary" in text
    assert rounded("ternary(alpha='auto_po2')", x * 0).format == FixedPoint(2, 2)


def test_scales_above_one_get_a_format_that_hardware_knows():
    x = np.array([[5.0, -0.01], [-9.0, 0.01]], np.float32)
    for text in ("ternary(alpha='auto_po2')", "ternary(alpha=4)", "quantized_bits(2,0,1,alpha=8)", "binary(alpha=2)"):
        format = rounded(text, x[:, :1]).format
        assert format.integer <= format.width, text
    assert rounded("ternary(alpha='auto_po2')", x[:, :1]).format == FixedPoint(5, 5)  # -8 and 8


REFUSED = {
    "ternary(alpha='auto')": "alpha 'auto', a float for each channel; .*auto_po2",
    "stochastic_binary(alpha='auto')": "binary has alpha 'auto', a float",
    "ternary(alpha='auto_po2',threshold=0.5)": "a threshold beside its automatic scale",
    "binary(alpha='auto_po2',scale_axis=0)": "other axes",
    "quantized_bits(1,0,1,alpha='auto_po2')": "of one bit has no automatic scale; use .*binary",
    "quantized_linear(4,0,alpha='auto_po2')": "has alpha 'auto_po2', and only a power of two",
    "bernoulli(alpha=1)": "draws random numbers at inference too.*binary with use_01",
}


@pytest.mark.parametrize("text", REFUSED)
def test_other_automatic_scales_are_refused_with_a_remedy(text):
    with pytest.raises(ExportError, match=f"here: .*{REFUSED[text]}"):
        rounded(text, np.ones((2, 2), np.float32))


@pytest.mark.parametrize("unrolls", ["0", "None", "1.5"])
def test_a_search_without_a_step_is_a_mistake(unrolls):
    with pytest.raises(ConfigError, match="unrolls of at least 1"):
        parse_quantizer(f"ternary(alpha='auto_po2',number_of_unrolls={unrolls})", "here")
