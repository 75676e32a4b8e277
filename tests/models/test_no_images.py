"""Every network takes a batch of no images, as the last part of a data set may be, and returns none."""

import jax
import jax.numpy as jnp
import pytest

from jaxgeo.models.batch_norm_resnet import BatchNormResNet, BatchNormResNetConfig
from jaxgeo.models.clebsch_gordan_network import (
    ClebschGordanNetwork,
    ClebschGordanNetworkConfig,
    plan_clebsch_gordan_network,
)
from jaxgeo.models.deepsphere import DeepSphereClassifier, DeepSphereConfig, DeepSphereSegmenter, plan_deepsphere
from jaxgeo.models.enet import ENet, ENetConfig
from jaxgeo.models.heal_swin import HealSwin, HealSwinClassifier, HealSwinConfig, plan_heal_swin
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.models.mlp import Mlp, MlpConfig
from jaxgeo.models.planar_cnn import CnnClassifier, CnnClassifierConfig, CnnSegmenter, CnnSegmenterConfig
from jaxgeo.models.resnet import ResNet, ResNetConfig
from jaxgeo.models.s2cnn_classifier import S2CNNClassifier, S2CNNClassifierConfig, plan_s2cnn_classifier
from jaxgeo.models.s2cnn_segmenter import S2CNNSegmenter, S2CNNSegmenterConfig, plan_s2cnn_segmenter
from jaxgeo.models.spin_weighted_network import (
    SpinWeightedNetwork,
    SpinWeightedNetworkConfig,
    plan_spin_weighted_network,
)
from jaxgeo.models.svhn_cnn import SvhnCnn, SvhnCnnConfig
from jaxgeo.models.swin import Swin, SwinConfig, plan_swin

S2CNN = dict(num_classes=3, input_bandlimit=4, features=(2, 2), bandlimits=(3, 2))
SWIN = dict(num_classes=3, channels=2, embed_dim=4, depths=(2, 2), num_heads=(1, 2))
CNN = ((2, 3), (3, 3), (1, 2), True)
SPHERE = DeepSphereConfig(num_classes=3, nside=2, features=(4,), terms=3)
HEAL_SWIN = HealSwinConfig(**SWIN, nside=8, window_size=4, shift="grid", shift_size=1)
CHUNKED = HealSwinConfig(**SWIN, nside=8, window_size=4, shift="grid", shift_size=1, attention_chunk=4)
FLAT = SwinConfig(**SWIN, size=(16, 32), window_size=(2, 4), shift_size=(1, 2))
COEFFICIENTS = ClebschGordanNetworkConfig(num_classes=3, bandlimit=3, features=(2,), hidden=4)
CLASSIFIER = S2CNNClassifierConfig(**S2CNN, kernel_max_beta=(0.2, 0.3))
SEGMENTER = S2CNNSegmenterConfig(**S2CNN, kernel_max_beta=(0.2, 0.3, 0.2), output_bandlimit=4)
SPIN = SpinWeightedNetworkConfig(num_classes=3, input_bandlimit=4, features=(2, 3), bandlimits=(4, 4), anchors=None)

# (module, arguments before the images, shape of an image, shape of its result)
NETWORKS = {
    "mlp": (Mlp(MlpConfig()), (), (2,), (2,)),
    "cnn classifier": (CnnClassifier(CnnClassifierConfig(*CNN, size=8, num_classes=3)), (), (8, 8, 1), (3,)),
    "cnn segmenter": (CnnSegmenter(CnnSegmenterConfig(*CNN, size=8, num_classes=3)), (), (8, 8, 1), (8, 8, 3)),
    "resnet": (ResNet(ResNetConfig(depth=8, features=2)), (), (32, 32, 3), (10,)),
    "folded resnet": (
        BatchNormResNet(BatchNormResNetConfig(depth=8, filters=2, size=8, num_classes=3)),
        (),
        (8, 8, 3),
        (3,),
    ),
    "svhn": (SvhnCnn(SvhnCnnConfig(size=22, filters=(3, 4, 5), units=(6, 7))), (), (22, 22, 3), (10,)),
    "enet": (
        ENet(ENetConfig(rows=8, columns=16, filters=4, encoder=(1,), decoder=(1,))),
        (),
        (8, 16, 3),
        (8, 16, ENetConfig().num_classes),
    ),
    "healpix": (
        HealpixClassifier(HealpixClassifierConfig(num_classes=3, nside=4, patches=(4, 4))),
        (),
        (192, 1),
        (3,),
    ),
    "deepsphere classifier": (DeepSphereClassifier(SPHERE), (plan_deepsphere(SPHERE),), (48, 1), (3,)),
    "deepsphere segmenter": (DeepSphereSegmenter(SPHERE), (plan_deepsphere(SPHERE),), (48, 1), (48, 3)),
    "heal-swin": (
        HealSwin(HEAL_SWIN),
        (plan_heal_swin(HEAL_SWIN),),
        (HEAL_SWIN.num_pixels, 2),
        (HEAL_SWIN.num_pixels, 3),
    ),
    "heal-swin in chunks": (
        HealSwin(CHUNKED),
        (plan_heal_swin(CHUNKED),),
        (CHUNKED.num_pixels, 2),
        (CHUNKED.num_pixels, 3),
    ),
    "heal-swin classifier": (
        HealSwinClassifier(HEAL_SWIN),
        (plan_heal_swin(HEAL_SWIN),),
        (HEAL_SWIN.num_pixels, 2),
        (3,),
    ),
    "swin": (Swin(FLAT), (plan_swin(FLAT),), (16, 32, 2), (16, 32, 3)),
    "clebsch-gordan": (
        ClebschGordanNetwork(COEFFICIENTS),
        (plan_clebsch_gordan_network(COEFFICIENTS),),
        (3, 5, 1),
        (3,),
    ),
    "s2cnn classifier": (S2CNNClassifier(CLASSIFIER), (plan_s2cnn_classifier(CLASSIFIER),), (8, 8, 1), (3,)),
    "s2cnn segmenter": (S2CNNSegmenter(SEGMENTER), (plan_s2cnn_segmenter(SEGMENTER),), (8, 8, 1), (8, 8, 3)),
    "spin-weighted": (SpinWeightedNetwork(SPIN), (plan_spin_weighted_network(SPIN),), (8, 8, 1), (3,)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_no_images_have_no_results(name):
    module, plans, image, result = NETWORKS[name]
    dtype = jnp.complex64 if name == "clebsch-gordan" else jnp.float32

    def images(count):
        return jax.ShapeDtypeStruct((count, *image), dtype)

    variables = jax.eval_shape(module.init, jax.random.key(0), *plans, images(1))
    for count in (0, 1):
        found = jax.eval_shape(module.apply, variables, *plans, images(count))
        assert found.shape == (count, *result)
