"""Settings by name: small runs for two cores, and the published ones of HEAL-SWIN (arXiv:2307.07313).

The published ones follow the run configurations of the authors' program: the networks with all their quirks; Adam at a
constant rate, without decay, in float32; 1000 epochs; raw colours, sampled as there; what the camera does not see as
pixels of class void; all pixels alike in the loss; and the parameters that do best on the validation part, which is
also what scores are of. Batches are of 8, which is 2 on each of four GPUs; where several devices are there, they share
each batch (`jaxgeo.dense_prediction.fitting`).

What differs: a batch's loss is one mean over its eight pictures, where four GPUs average four means of two; epochs
follow each other without a gap, so that 1000 of them are some 500 steps of 824,000 fewer; random numbers are others.
"""

import dataclasses

from jaxgeo.dense_prediction.config import DataConfig, DenseConfig, DepthConfig, FitConfig, NetworkConfig
from jaxgeo.training.supervised import SupervisedConfig

_EPOCH = 824  # steps: 6588 pictures of WoodScape in batches of 8


def paper_config() -> DenseConfig:
    """The published network and its training on WoodScape."""
    return DenseConfig(
        DataConfig(
            "woodscape", nside=256, faces=8, train_examples=10_000, test_examples=10_000, sampling="faithful",
            inputs="raw", unseen="void", split="faithful",
        ),
        NetworkConfig(
            embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), patch_size=4, window_size=64, shift="spiral",
            shift_size=4, norm_placement="post", mlp_ratio=4.0, dropout_rate=0.1, attention_dropout_rate=0.1,
            mode="faithful",
        ),
        FitConfig(
            pixels="equal", scores="faithful", epochs=1000, evaluate_every=_EPOCH, keep_best=True, validate_by="test"
        ),
        SupervisedConfig(
            batch_size=8, optimizer="adam", learning_rate=9.54993e-4, schedule="constant", warmup_steps=0,
            weight_decay=0.0,
        ),
    )  # fmt: skip


def paper_flat_config() -> DenseConfig:
    """The published flat baseline: as many parameters, trained alike, on pictures resized to 640 x 768."""
    sphere = paper_config()
    return dataclasses.replace(
        sphere,
        data=dataclasses.replace(sphere.data, image_rows=640, image_columns=768),
        network=dataclasses.replace(sphere.network, kind="swin", shift_size=2),
    )


def paper_depth_config() -> DenseConfig:
    """The published network for depth on SynWoodScape: depths standardised by the published statistics, L2.

    The sky has no depth, and validation is by the mean squared error.
    """
    sphere = paper_config()
    return dataclasses.replace(
        sphere,
        data=dataclasses.replace(sphere.data, source="synwoodscape", task="depth"),
        fit=dataclasses.replace(sphere.fit, loss="l2", evaluate_every=200),
        training=dataclasses.replace(sphere.training, learning_rate=5e-3),
        depth=DepthConfig(transform="none", statistics="published", limit=None),
    )


def paper_flat_depth_config() -> DenseConfig:
    """The published flat baseline for depth, on pictures of 512 x 640.

    They are resized whole to that, where the authors resize to 512 x 678 and cut 19 columns off on either side.
    """
    sphere = paper_depth_config()
    return dataclasses.replace(
        sphere,
        data=dataclasses.replace(sphere.data, image_rows=512, image_columns=640),
        network=paper_flat_config().network,
        training=dataclasses.replace(sphere.training, learning_rate=5e-5),
    )


def scenes_config() -> DenseConfig:
    """Small networks on synthetic fisheye scenes: minutes on two cores."""
    return DenseConfig(
        DataConfig("scenes", nside=64, faces=8, image_rows=128, image_columns=160),
        NetworkConfig(patch_size=4, window_size=16, shift="grid"),
        FitConfig(),
        SupervisedConfig(steps=400, batch_size=4, learning_rate=2e-3, warmup_steps=40, clip_norm=1.0),
    )


def earth_config() -> DenseConfig:
    """Climate classes of the Earth: minutes on two cores.

    Climate follows the place, of which the network learns a vector for each token. What a pixel alone tells should not
    pass through its token: see `NetworkConfig`. Then a token may be of 64 pixels, so that many steps take little time.
    """
    return DenseConfig(
        DataConfig(mirrors="equator", turns=16),
        NetworkConfig(patch_size=64, patch_norm=True, absolute_position=True, pixel_width=32, context_dropout_rate=0.3),
        FitConfig(),
        SupervisedConfig(
            steps=400, batch_size=1, learning_rate=4e-3, warmup_steps=40, clip_norm=1.0, average_decay=0.98
        ),
    )


PRESETS = {
    "earth": earth_config,
    "scenes": scenes_config,
    "paper": paper_config,
    "paper-flat": paper_flat_config,
    "paper-depth": paper_depth_config,
    "paper-flat-depth": paper_flat_depth_config,
}
