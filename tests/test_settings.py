"""Every configuration of both packages refuses what is not of the type that a setting is annotated with."""

import collections.abc
import dataclasses
import importlib
import inspect
import itertools
import math
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from unchecked import without_type_checks

import fpga_bridge
import jaxgeo
from fpga_bridge.emulation.layer_types import DesignTypes, LayerTypes, SoftmaxTypes
from fpga_bridge.estimates.enet_latency import StageModel
from jaxgeo.data.depth_scaling import DepthStatistics
from jaxgeo.errors import ConfigError, check_fields
from jaxgeo.layers.fixed_point import FixedPoint
from jaxgeo.layers.tensor_product import TensorProductConfig
from jaxgeo.layers.zonal import ZonalConfig
from jaxgeo.models.s2cnn import KernelGrid
from jaxgeo.posteriors.log_joint import GaussianLikelihood
from jaxgeo.training.enet_precision import ENetBits

ENDS = ("Bits", "Config", "Formats", "Likelihood", "Prior", "Scaling", "Settings", "Statistics", "Widths")
EXAMPLES = {
    DepthStatistics: DepthStatistics(0.0, 9.0, 3.0, 1.0),
    DesignTypes: DesignTypes(),
    ENetBits: ENetBits({"head": 4}, {"head": 8}),
    FixedPoint: FixedPoint(8, 3),
    GaussianLikelihood: GaussianLikelihood(0.5),
    TensorProductConfig: TensorProductConfig("2x0e + 1x1o"),
    ZonalConfig: ZonalConfig(4),
    KernelGrid: KernelGrid(),
    LayerTypes: LayerTypes(),
    SoftmaxTypes: SoftmaxTypes(),
    StageModel: StageModel(),
}  # of classes without defaults, and of those that are called otherwise
WRONG = (math.nan, 1.5, True, "x", [1, 2], [], {}, (math.nan,), (1.5, True), ("x", 2), None, object())


def settings_of(package: Any) -> list[type]:
    """Dataclasses that are named like settings, wherever they stand."""
    root, found = Path(package.__path__[0]), []
    for path in sorted(root.rglob("*.py")):
        for name in re.findall(r"^@dataclasses\.dataclass.*\nclass ([A-Za-z]\w*)", path.read_text(), re.MULTILINE):
            if name.endswith(ENDS) or name in {kind.__name__ for kind in EXAMPLES}:
                module = ".".join([package.__name__, *path.relative_to(root).with_suffix("").parts])
                found.append(getattr(importlib.import_module(module), name))
    return [kind for kind in found if not inspect.isabstract(kind)]


def belongs(value: Any, kind: Any) -> bool:
    """Whether a value is one of the type; a number of another library's, which nothing here is, would not be."""
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(belongs(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is tuple:
        inner = parts if parts[-1] is not Ellipsis else parts[:1] * (len(value) if isinstance(value, tuple) else 1)
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(belongs, value, inner))
    if origin is collections.abc.Mapping:
        return isinstance(value, dict) and all(belongs(item, parts[1]) for item in value.values())
    return type(value) in ((int, float) if kind is float else (kind,)) and not (kind is float and math.isnan(value))


@pytest.mark.parametrize(
    "kind", [*settings_of(jaxgeo), *settings_of(fpga_bridge)], ids=lambda kind: f"{kind.__module__}.{kind.__name__}"
)
def test_a_setting_of_another_type_is_refused_in_a_sentence(kind):
    with without_type_checks():
        example = EXAMPLES.get(kind) or kind()  # without defaults: add an example above
        annotations = get_type_hints(kind)
        for field, value in itertools.product(dataclasses.fields(kind), WRONG):
            try:
                taken = dataclasses.replace(example, **{field.name: value})
            except ConfigError:
                continue
            assert belongs(getattr(taken, field.name), annotations[field.name]), (field.name, value)


def test_ranges_are_of_each_number_and_infinity_is_one_where_a_range_ends_there():
    @dataclasses.dataclass(frozen=True)
    class Sizes:
        counts: tuple[int, ...] = (1, 2)
        limit: float | None = None
        mode: Literal["a", "b"] = "a"

    def check(**changes: Any) -> None:
        check_fields(Sizes(**changes), "sizes", counts=(1, 4), limit=(0.5, math.inf))

    check(counts=(), limit=math.inf)
    check(counts=(np.int64(4), 1), limit=np.float32(0.5), mode=np.str_("b"))
    for changes, message in (
        ({"counts": (1, 5)}, r"sizes.counts must be a tuple, each a whole number from 1 to 4, got \(1, 5\)"),
        ({"counts": [1]}, r"sizes.counts must be a tuple, each a whole number from 1 to 4, got \[1\]"),
        ({"limit": 0.25}, "sizes.limit must be a number of at least 0.5 or None, got 0.25"),
        ({"limit": -math.inf}, "sizes.limit must be a number of at least 0.5 or None, got -inf"),
        ({"mode": "c"}, "sizes.mode must be one of a, b, got 'c'"),
    ):
        with pytest.raises(ConfigError, match=f"^{message}$"):
            check(**changes)
    with pytest.raises(TypeError, match=r"^Sizes has no count$"):
        check_fields(Sizes(), count=1)
