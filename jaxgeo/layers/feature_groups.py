"""Which features of a network are one thing, so that filters can be taken out of all layers that share them.

Layers whose results are added to one another, as around a skip, write the same features; what is joined, pooled,
repeated or rectified keeps them. A model names its groups, and whoever takes features out needs to know no more of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable


class FeatureGroup(NamedTuple):
    """Features that several layers write and read in one order.

    Layers are named by their paths in `params`, with slashes; a batch norm or an affine map behind one is its sibling
    `<layer>_norm`. A dense layer that reads flattened pixels has the features fastest.
    """

    name: str
    """of what is chosen; groups of one name have equally many features"""
    writers: tuple[str, ...]
    readers: tuple[str, ...]


@runtime_checkable
class ReducibleConfig(Protocol):
    """A config of a network that says which of its features belong together."""

    @property
    def feature_groups(self) -> tuple[FeatureGroup, ...]:
        """In the order in which the network computes them."""
        ...

    @property
    def feature_counts(self) -> dict[str, int]:
        """Features of each group by its name."""
        ...

    @property
    def precision(self) -> Any:
        """None in floating point."""
        ...

    @property
    def norm(self) -> str:
        """`batch` where norms have running statistics."""
        ...

    @property
    def epsilon(self) -> float:
        """Added to variances."""
        ...

    def with_features(self, counts: Mapping[str, int]) -> Any:
        """The config of the same network with other numbers of features, all names given."""
        ...
