"""A globe for runs of dense prediction."""

import numpy as np
import pytest
from tiny_runs import NSIDE


@pytest.fixture
def earth(tmp_path, monkeypatch):
    """A small globe in the published format: hot land in the north, and two regions without labels."""
    rng = np.random.default_rng(0)
    pixels = np.arange(12 * NSIDE**2)
    main_classes = np.where(pixels < 4 * NSIDE**2, 1, 0).astype(np.uint8)
    main_classes[::3] = 2
    main_classes[pixels // (NSIDE // 2) ** 2 < 2] = 255
    folder = tmp_path / "data"
    folder.mkdir()
    np.savez(
        folder / "earth_climate.npz",
        hp_rgb=rng.integers(0, 256, (len(pixels), 3), dtype=np.uint8),
        hp_elev_m=rng.integers(-8000, 5000, len(pixels)).astype(np.int16),
        hp_main=main_classes,
        hp_koppen=main_classes,
        main_names=np.array(["ocean", "land", "other"]),
        class_names=np.array(["ocean", "land", "other"]),
        nside=np.array(NSIDE),
    )
    monkeypatch.setenv("JAXGEO_DATA", str(folder))
    return folder
