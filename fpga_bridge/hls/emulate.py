"""Runs a compiled hls4ml project on inputs from a file, in a process of its own: an abort there harms nobody.

python emulate.py LIBRARY FUNCTION OUTPUT_SIZE INPUTS.npy OUTPUTS.npy
"""

import ctypes
import sys

import numpy as np


def emulate(library: str, function: str, output_size: int, inputs: np.ndarray) -> np.ndarray:
    """Outputs (sample, output_size) of the C++ function for inputs (sample, ...)."""
    call = getattr(ctypes.CDLL(library), function)
    pointer = np.ctypeslib.ndpointer(np.float64, flags="C_CONTIGUOUS")
    call.restype, call.argtypes = None, [pointer, pointer]
    samples = np.ascontiguousarray(inputs, np.float64).reshape(len(inputs), -1)
    outputs = np.zeros((len(samples), output_size), np.float64)
    for sample, output in zip(samples, outputs, strict=True):
        call(sample, output)
    return outputs


if __name__ == "__main__":
    _library, _function, _size, _inputs, _outputs = sys.argv[1:]
    np.save(_outputs, emulate(_library, _function, int(_size), np.load(_inputs, allow_pickle=False)))
