"""What the choice of bits and filters may be bounded by: effective bit operations, DSP slices or LUTs of the products.

A price is a plain function of the integers of one layer (`jaxgeo.training.bit_cost.LayerWords`), so that the library
knows nothing of FPGAs; those of cells are the bridge's model of multipliers by constants, one for each weight, as where
pixels stream. Below ten bits that model makes nearly all of them of LUTs, so DSP slices then count the weights that are
no power of two, and what lowers them is fewer filters or weights, not fewer bits.
"""

from typing import Literal

import numpy as np

from jaxgeo.training.bit_cost import LayerWords, Price, bit_operations

PriceName = Literal["ebops", "dsp", "lut"]


def dsp_slices(layer: LayerWords) -> float:
    """DSP slices of the products."""
    from fpga_bridge.estimates.resources import constant_products

    return float(constant_products(layer.words, layer.source_bits, layer.weight_bits).dsp)


def lookup_tables(layer: LayerWords) -> float:
    """LUTs of the products and of their sums, which are as wide as the largest of them needs."""
    from fpga_bridge.estimates.resources import constant_products

    products = constant_products(layer.words, layer.source_bits, layer.weight_bits)
    matrix = np.abs(layer.words.reshape(-1, layer.words.shape[-1]))
    sum_bits = layer.source_bits + int(matrix.sum(0).max()).bit_length()
    return float(products.lut) + int(np.count_nonzero(matrix)) * sum_bits


PRICES: dict[PriceName, Price] = {"ebops": bit_operations, "dsp": dsp_slices, "lut": lookup_tables}
