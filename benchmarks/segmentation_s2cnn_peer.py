"""The original segmentation S2CNN in a process of its own: PyTorch on the CPU, its sources as they are.

    python -m benchmarks.segmentation_s2cnn_peer CHECKOUT WEIGHTS.npz OUTPUT.npy

What has vanished since the sources were written is put back before they are imported: names of NumPy's, the folder of
pickles (a plain cache instead: nothing pickled is read), and lie_learn, whose d-matrices and quadrature weights come
from this library (they are equal to 1e-13; the original needs a quarter of an hour for its tables, which is not timed).
WEIGHTS.npz holds `config_json`, `input` and `weights/<name>`; OUTPUT.npy gets the output. The first call, which also
builds the tables, is told when it is over; the process then takes turns (`turns`).
"""

import functools
import json
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import Calls, serve
from jaxgeo.grids.latlon import soft_grid
from jaxgeo.harmonics.wigner import iterate_matrices

MAX_DEGREES = 64


@functools.lru_cache(maxsize=4)
def _matrices(beta: float) -> list[np.ndarray]:
    return list(iterate_matrices(MAX_DEGREES, beta))


def _wigner_d_matrix(l, beta, **_):
    return _matrices(float(beta))[l].copy()


def _wigner_big_d_matrix(l, alpha, beta, gamma, **_):
    m = np.arange(-l, l + 1)
    return np.exp(1j * m * alpha)[:, None] * _matrices(float(beta))[l] * np.exp(1j * m * gamma)[None]


def _quadrature_weights(b, **_):
    return soft_grid(b).weights / 2 / (2 * b) ** 2


def put_back() -> None:
    """Modules and names that the sources import."""
    for name, value in (("float", float), ("int", int), ("complex", complex)):
        setattr(np, name, value)
    modules = {
        "lie_learn": {},
        "lie_learn.representations": {},
        "lie_learn.representations.SO3": {},
        "lie_learn.representations.SO3.wigner_d": {
            "wigner_d_matrix": _wigner_d_matrix,
            "wigner_D_matrix": _wigner_big_d_matrix,
        },
        "lie_learn.spaces": {},
        "lie_learn.spaces.S3": {"quadrature_weights": _quadrature_weights},
        "s2cnn.utils.decorator": {
            "cached_dirpklgz": lambda folder: functools.lru_cache(maxsize=None),
            "show_running": lambda function: function,
        },
    }
    for name, contents in modules.items():
        module = types.ModuleType(name)
        module.__dict__.update(contents)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent in sys.modules:
            setattr(sys.modules[parent], child, module)


def main(checkout: str, weights_path: str, output_path: str) -> int:
    put_back()
    sys.path[:0] = [checkout, str(Path(checkout) / "examples" / "mnist_sem_seg")]

    def make() -> tuple[Calls, dict[str, Any]]:
        import torch
        from models import S2ConvNet_sem_seg

        with np.load(weights_path, allow_pickle=False) as archive:
            config = json.loads(str(archive["config_json"]))
            image = torch.from_numpy(archive["input"])
            weights = {key[8:]: torch.from_numpy(archive[key]) for key in archive.files if key.startswith("weights/")}
        net = S2ConvNet_sem_seg(**config)
        net.load_state_dict(weights)

        @torch.no_grad()
        def forward() -> np.ndarray:
            return net(image).numpy()

        start = time.perf_counter()
        np.save(output_path, forward())
        return {"forward": forward}, {"first_call_s": time.perf_counter() - start}

    return serve(make)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
