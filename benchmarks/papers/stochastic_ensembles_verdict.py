"""Which family of the toy is nearer to HMC than the deep ensemble: all comparisons judged together, and in words.

A comparison is a family, a quantity (entropy or mutual information) and a domain; its number is the deep ensemble's
mean distance to HMC less the family's, with the error of that difference. Of sixty at two errors each some would pass
in most runs of equal families, so they are judged together, by Holm's rule at a family-wise level of 5 %. Nearer or
farther are those that pass by more than HMC's own noise floor, half of its chains against the other half: by less than
that, noise of the reference may turn the order of two distances. That is cautious (`FLOOR`): how many pass by their
errors alone stands beside it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxgeo.metrics.multiple_comparisons import LEVEL, holm, two_sided_p
from jaxgeo.metrics.noise_floor import floor_error
from jaxgeo.metrics.standard_error import Measure
from jaxgeo.metrics.uncertainty_gap import UncertaintyGap

OUTCOMES = ("nearer", "farther", "open")
FLOOR = (
    "The floor is one mean over half of HMC's draws against one over the other half. Each has half of the draws, so "
    "where draws are independent it is twice the error of the mean over all of them, which the families are held "
    'against: "open" is favoured, and what is open is not shown to be equal.'
)
"""what a reader of the verdict has to know of it"""


class Comparison(NamedTuple):
    """One family against the deep ensemble, by one quantity on one domain."""

    family: str
    quantity: str
    domain: int
    difference: Measure  # positive where the family is nearer to HMC
    floor: Measure


class Verdict(NamedTuple):
    """Words, counts by family and quantity, and what became of each comparison."""

    sentence: str
    counts: dict[str, dict[str, int]]
    comparisons: list[dict[str, Any]]


def judge(
    differences: Sequence[Mapping[str, UncertaintyGap]], floors: Sequence[UncertaintyGap], titles: Mapping[str, str]
) -> Verdict:
    """The claim "stochastic ensembles are closer to HMC in a number of settings": confirmed, refuted or open.

    Confirmed where a comparison passes as nearer by more than the floor; refuted where none passes as nearer even by
    the errors alone, but some as farther; else open.

    Args:
        differences: of each domain, by the names of the families, as `uncertainty_gap_difference` gives them.
        floors: of each domain.
        titles: of the families in words.
    """
    made = [
        Comparison(name, quantity, number, getattr(gaps[name], quantity), getattr(floor, quantity))
        for name in titles
        for quantity in UncertaintyGap._fields
        for number, (gaps, floor) in enumerate(zip(differences, floors, strict=True))
    ]
    chances = np.array([_chances(one) for one in made])
    beyond, alone = (holm(column) for column in chances.T)
    rows = [
        {
            "family": one.family,
            "quantity": one.quantity,
            "domain": one.domain,
            "difference": one.difference.to_dict(),
            "p_beyond_floor": float(chance[0]),
            "p_without_floor": float(chance[1]),
            "outcome": _outcome(one, bool(far)),
            "outcome_without_floor": _outcome(one, bool(near)),
        }
        for one, chance, far, near in zip(made, chances, beyond, alone, strict=True)
    ]
    counts = {
        f"{name} {quantity}": _counted(rows, family=name, quantity=quantity)
        for name in titles
        for quantity in UncertaintyGap._fields
    }
    return Verdict(_sentence(rows, counts, titles), counts, rows)


def _chances(one: Comparison) -> tuple[float, float]:
    """p-values of the difference beyond the floor, and of the difference alone."""
    value, error = one.difference.value, one.difference.total_error
    return two_sided_p(value, float(np.hypot(error, floor_error(one.floor))), one.floor.value), two_sided_p(
        value, error
    )


def _outcome(one: Comparison, passed: bool) -> str:
    return "open" if not passed else "nearer" if one.difference.value > 0 else "farther"


def _counted(rows: list[dict[str, Any]], **which: str) -> dict[str, int]:
    chosen = [row for row in rows if all(row[key] == value for key, value in which.items())]
    return {outcome: sum(row["outcome"] == outcome for row in chosen) for outcome in OUTCOMES} | {
        f"{outcome}_without_floor": sum(row["outcome_without_floor"] == outcome for row in chosen)
        for outcome in OUTCOMES
    }


def _sentence(rows: list[dict[str, Any]], counts: dict[str, dict[str, int]], titles: Mapping[str, str]) -> str:
    total = _counted(rows)
    if total["nearer"]:
        verdict = "confirmed here"
    elif total["farther_without_floor"] and not total["nearer_without_floor"]:
        verdict = "refuted here"
    else:
        verdict = "open here"
    parts = []
    for name, title in titles.items():
        shares = (
            f"{quantity.replace('_', ' ')} {_in_words(counts[f'{name} {quantity}'])}"
            for quantity in UncertaintyGap._fields
        )
        parts.append(f"{title}: {', '.join(shares)}")
    return (
        f"That stochastic ensembles are closer to HMC in a number of settings is {verdict}: of {len(rows)} differences "
        f"to the deep ensemble (family, quantity, domain), by more than HMC's noise floor and at a family-wise level "
        f"of {100 * LEVEL:g} %, {total['nearer']} are nearer, {total['farther']} farther and {total['open']} open "
        f"(by their errors alone, without the floor, {total['nearer_without_floor']} nearer and "
        f"{total['farther_without_floor']} farther). Nearer/farther/open by family: {'; '.join(parts)}."
    )


def _in_words(count: dict[str, int]) -> str:
    return "/".join(str(count[outcome]) for outcome in OUTCOMES)
