"""The benchmark of tensor products at a toy size: a peer that is not there has the same keys as one that is."""

import argparse
import json
import math

import jax
import pytest

from benchmarks import tensor_product


def test_a_peer_that_is_not_installed_is_a_row_without_figures(monkeypatch, capsys):
    def missing(irreps, batch):
        raise ImportError

    monkeypatch.setattr(tensor_product, "cuequivariance_product", missing)
    monkeypatch.setitem(tensor_product.CASES, "toy", ("2x0e + 1x1o", 3))
    with jax.numpy_rank_promotion("allow"):  # for a peer
        row = tensor_product.measure("toy", "forward", argparse.Namespace(repeats=3, seconds=0.01, cores=1))
    peers = json.loads(json.dumps(row))["peers"]
    assert peers["cuequivariance-jax"] == {"ms": None, "ratio": None, "note": "not installed"}
    assert peers["e3nn-jax"].keys() == peers["cuequivariance-jax"].keys()
    assert all(math.isfinite(peers["e3nn-jax"][key]) for key in ("ms", "ratio"))
    assert row["max_error"] < 1e-5  # float32
    tensor_product.show([row])
    assert "not installed" in capsys.readouterr().out


def test_more_cores_than_there_are_are_refused(capsys):
    with pytest.raises(SystemExit):
        tensor_product.main(["--cores", "100000"])
    assert "--cores must be at most" in capsys.readouterr().err
