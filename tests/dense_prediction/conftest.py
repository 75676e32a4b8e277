"""A globe and a folder of fisheye pictures for runs of dense prediction."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_runs import COLUMNS, INTRINSIC, NAMES, NSIDE, ROWS


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


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Six pictures of a left half of road and a right half of vehicles, void at the upper edge."""
    root = tmp_path / "data" / "woodscape"
    images, masks, calibrations = (
        root / part
        for part in ("rgb_images", "semantic_annotations/semantic_annotations/gtLabels", "calibration/calibration")
    )
    for place in (images, masks, calibrations):
        place.mkdir(parents=True)
    labels = np.full((ROWS, COLUMNS), 1, np.uint8)
    labels[:, COLUMNS // 2 :] = 6
    labels[: ROWS // 3] = 0
    rng = np.random.default_rng(0)
    for name in NAMES:
        Image.fromarray(rng.integers(0, 256, (ROWS, COLUMNS, 3), dtype=np.uint8)).save(images / f"{name}.png")
        Image.fromarray(labels).save(masks / f"{name}.png")
        extrinsic = {"quaternion": [0.5, -0.5, 0.5, -0.5], "translation": [3.7, 0.1, 0.65]}
        calibration = {"name": name.split("_")[1], "intrinsic": INTRINSIC, "extrinsic": extrinsic}
        (calibrations / f"{name}.json").write_text(json.dumps(calibration))
    monkeypatch.setenv("JAXGEO_DATA", str(tmp_path / "data"))
    return root
