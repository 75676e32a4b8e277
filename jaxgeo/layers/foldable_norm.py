"""What networks share whose batch norms become part of their convolutions before they go to hardware."""

from typing import Any, Literal, Protocol, runtime_checkable

from jaxgeo.errors import ConfigError, check_one_of

Norm = Literal["batch", "folded"]


@runtime_checkable
class FoldableConfig(Protocol):
    """The settings of such a network that concern its norms."""

    @property
    def norm(self) -> str:
        """`batch` for training, `folded` where the norms are part of the convolutions."""
        ...

    @property
    def momentum(self) -> float:
        """Of the running mean and variance."""
        ...

    @property
    def epsilon(self) -> float:
        """Added to variances."""
        ...

    @property
    def precision(self) -> Any:
        """None in floating point, or formats with one entry in `convolutions` and in `sums` for each of them."""
        ...


def check_foldable_norm(config: FoldableConfig, *, num_convolutions: int, num_sums: int) -> None:
    """Refuse what cannot be.

    Args:
        config: of the network.
        num_convolutions: of the network.
        num_sums: likewise, of a block with its shortcut.

    Raises:
        ConfigError: another norm, constants that no batch norm has, formats beside batch norms, or another number of
            them.
    """
    check_one_of("norm", config.norm, Norm)
    if not 0 <= config.momentum < 1 or not config.epsilon > 0:
        raise ConfigError(
            f"a batch norm needs a momentum in [0, 1) and a positive epsilon, got {config.momentum}, {config.epsilon}"
        )
    if config.precision is None:
        return
    if config.norm != "folded":
        raise ConfigError("in fixed point batch norms are folded into the convolutions; take norm='folded'")
    found = len(config.precision.convolutions), len(config.precision.sums)
    if found != (num_convolutions, num_sums):
        raise ConfigError(
            f"a precision for {num_convolutions} convolutions and {num_sums} sums is needed, got {found[0]} and "
            f"{found[1]}"
        )
