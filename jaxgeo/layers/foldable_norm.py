"""What networks share whose batch norms become part of their convolutions before they go to hardware."""

from typing import Any, Literal, get_args

from jaxgeo.errors import ConfigError

Norm = Literal["batch", "folded"]


def check_foldable_norm(
    norm: str, momentum: float, epsilon: float, precision: Any, *, num_convolutions: int, num_sums: int
) -> None:
    """Refuse what cannot be.

    Args:
        norm: "batch" for training, "folded" where the norms are part of the convolutions.
        momentum: of the running mean and variance.
        epsilon: added to variances.
        precision: None in floating point, or formats with one entry in `convolutions` and in `sums` for each of them.
        num_convolutions: of the network.
        num_sums: likewise, of a block with its shortcut.

    Raises:
        ConfigError: another norm, constants that no batch norm has, formats beside batch norms, or another number of
            them.
    """
    if norm not in get_args(Norm):
        raise ConfigError(f"norm must be one of {get_args(Norm)}, got {norm!r}")
    if not 0 <= momentum < 1 or not epsilon > 0:
        raise ConfigError(f"a batch norm needs a momentum in [0, 1) and a positive epsilon, got {momentum}, {epsilon}")
    if precision is None:
        return
    if norm != "folded":
        raise ConfigError("in fixed point batch norms are folded into the convolutions; take norm='folded'")
    found = len(precision.convolutions), len(precision.sums)
    if found != (num_convolutions, num_sums):
        raise ConfigError(
            f"a precision for {num_convolutions} convolutions and {num_sums} sums is needed, got {found[0]} and "
            f"{found[1]}"
        )
