"""What the report says in words, and its tables; nothing is claimed that the numbers do not carry."""

import json
from collections.abc import Mapping
from typing import Any

from jaxgeo.study import page
from jaxgeo.study.score import DROPOUT, ENSEMBLE, REFERENCE

Numbers = Mapping[str, Any]

_SCORES = (
    ("accuracy", "accuracy"),
    ("negative_log_likelihood", "NLL, nats"),
    ("brier", "Brier"),
    ("calibration_error_equal_width", "ECE"),
    ("predictive_entropy", "entropy, nats"),
    ("mutual_information", "MI, nats"),
)
_DISTANCES = (
    ("agreement", "agreement"),
    ("total_variation", "total variation"),
    ("divergence_from_reference", "KL from HMC, nats"),
)


_SPACES = (
    ("outputs", "number"),
    ("rhat_median", "split R-hat, median"),
    ("rhat_95", "split R-hat, 95 % quantile"),
    ("rhat_max", "split R-hat, largest"),
    ("ess_min", "effective sample size, smallest"),
    ("ess_median", "effective sample size, median"),
)


def lead(numbers: Numbers) -> str:
    """One sentence under the title."""
    data = numbers["data"]
    return (
        f"{data['train_images']:,} handwritten digits on the HEALPix sphere (nside {data['nside']}, {data['pixels']:,} "
        f"pixels), a classifier of {numbers['train']['parameters']:,} parameters, and three views of what it does not "
        f"know, judged on {data['test_images']:,} test images."
    )


def _bit_for_bit(export: Mapping[str, Any]) -> dict[str, str]:
    if not export["ran"]:
        tone = "bad" if "failure" in export else "fair"
        return page.line(f"The export to hardware did not run: {export['reason']}", tone)
    count = f"{export['values_compared']:,} outputs compared"
    rungs = [rung["name"] for rung in export["ladder"] if rung["bit_for_bit"] is not None]
    who = f"Fixed point in JAX, {', '.join(rungs[:-1])} and {rungs[-1]}"
    if export["bit_for_bit"] == 1:
        return page.line(f"{who} agree bit for bit on all {count}.", "good")
    share = page.number(100 * export["bit_for_bit"], 4)
    return page.line(f"{who} agree bit for bit on only {share} % of {count}.", "bad")


def _verdict(numbers: Numbers) -> dict[str, str]:
    verdict = numbers["scores"]["ensemble_against_dropout"]["total_variation"]
    difference, needed = abs(verdict["difference"]["value"]), verdict["needed"]
    if verdict["outcome"] == "indistinguishable":
        text = (
            f"Neither the {ENSEMBLE} nor {DROPOUT} can be called closer to {REFERENCE}: their total variations differ "
            f"by {difference:.4f}, and a claim needs more than {needed:.4f} (the noise floor and two standard errors)."
        )
    else:
        nearer, other = (f"The {ENSEMBLE}", DROPOUT) if verdict["outcome"] == "closer" else (DROPOUT, f"the {ENSEMBLE}")
        text = (
            f"{nearer} is closer to {REFERENCE} than {other}: its total variation is {difference:.4f} smaller, more "
            f"than the {needed:.4f} that a claim needs."
        )
    if not numbers["sample"]["converged"]:
        return page.line(text + " As the reference has not converged, this is provisional.", "fair")
    return page.line(text, "fair" if verdict["outcome"] == "indistinguishable" else "good")


def summary(numbers: Numbers) -> list[dict[str, str]]:
    """The findings, one sentence each, with their tone."""
    sample, methods = numbers["sample"], numbers["scores"]["methods"]
    best = max(methods, key=lambda name: methods[name]["accuracy"]["value"])
    accuracy = page.with_error(methods[best]["accuracy"]["value"], methods[best]["accuracy"]["image_standard_error"])
    lines = [
        page.line(sample["sentence"], "good" if sample["converged"] else "bad"),
        _verdict(numbers),
        _bit_for_bit(numbers["export"]),
    ]
    rtl = numbers["export"].get("rtl")
    if rtl:
        lines.append(page.line(rtl["sentence"], "good" if rtl["bit_for_bit"] == 1 else "bad"))
    lines.append(
        page.line(
            f"Most accurate on the test images: {best}, {accuracy['value']} ± {accuracy['error']} (error of the finite "
            f"test set)."
        )
    )
    return lines


def cards(numbers: Numbers) -> list[dict[str, str]]:
    """The figures at the head of the page."""
    methods, sample, export = numbers["scores"]["methods"], numbers["sample"], numbers["export"]
    found = [
        page.card(f"{100 * methods[ENSEMBLE]['accuracy']['value']:.1f} %", f"accuracy of the {ENSEMBLE}"),
        page.card(
            f"{methods[ENSEMBLE]['total_variation']['value']:.3f}",
            f"total variation of the {ENSEMBLE} from {REFERENCE}; floor "
            f"{numbers['scores']['noise_floor']['total_variation']['value']:.3f}",
        ),
        page.card(
            "converged" if sample["converged"] else "not converged",
            f"{REFERENCE}: {sample['chains']} chains of {sample['draws']} draws",
            "good" if sample["converged"] else "bad",
        ),
    ]
    if export["ran"]:
        whole = export["bit_for_bit"] == 1
        share = "100 %" if whole else f"{100 * export['bit_for_bit']:.2f} %"
        found.append(page.card(share, "bit-for-bit equal: fixed point, Keras, hls4ml C++", "good" if whole else "bad"))
    elif "failure" in export:
        found.append(page.card("failed", "export to hardware", "bad"))
    else:
        found.append(page.card("not run", "export to hardware", "fair"))
    found.append(page.card(page.seconds(numbers["timing"]["seconds"]["total"]), "in all stages together"))
    return found


def _cell(measure: Mapping[str, Any] | None) -> Any:
    return page.with_error(measure["value"], measure["standard_error"]) if measure else page.number(None)


def _score_table(numbers: Numbers) -> dict[str, Any]:
    methods = numbers["scores"]["methods"]
    return page.table(
        ["method", *(title for _, title in _SCORES)],
        [[name, *(_cell(card[key]) for key, _ in _SCORES)] for name, card in methods.items()],
        title="Against the labels",
        note="± Monte Carlo standard error: of the finite number of members, masks or draws (jackknife over members, "
        "networks and chains). One network has none. The error of the finite test set is in report.json.",
    )


def _distance_table(numbers: Numbers) -> dict[str, Any]:
    scores = numbers["scores"]
    rows = [
        [name, *(_cell(card[key]) for key, _ in _DISTANCES)]
        for name, card in scores["methods"].items()
        if name != REFERENCE
    ]
    floor = scores["noise_floor"]
    rows.append([f"{REFERENCE}, half against half", _cell(floor["agreement"]), _cell(floor["total_variation"]), ""])
    return page.table(
        ["method", *(title for _, title in _DISTANCES)],
        rows,
        title=f"Against {REFERENCE}",
        note="The last row is the noise floor: no method can be seen to be nearer to the reference than the reference "
        "is to itself. Errors are those of the method's and of the reference's draws together.",
    )


def _rotation_table(numbers: Numbers, quantity: str, title: str) -> dict[str, Any]:
    rotation = numbers["scores"]["rotation"]
    methods = rotation["methods"]
    rows = [
        [
            f"{angle:g}°",
            *(page.with_error(curve[quantity][i], curve[f"{quantity}_error"][i]) for curve in methods.values()),
        ]
        for i, angle in enumerate(rotation["angles"])
    ]
    note = f"Nats; mean of {rotation['images']} images and its standard error."
    return page.table(["angle", *methods], rows, title=title, note=note)


def _hmc_table(numbers: Numbers) -> dict[str, Any]:
    sample = numbers["sample"]
    both = [sample["function"], sample["weights"]]
    rows = [[title, *(page.number(space[key], 4) for space in both)] for key, title in _SPACES]
    rows.insert(
        4, ["share with split R-hat of at most 1.05", *(f"{100 * space['share_within']:.1f} %" for space in both)]
    )
    note = (
        f"{page.number(sample['divergences'])} divergent transitions; mean acceptance "
        f"{page.number(sample['acceptance'])}; step size {page.number(sample['step_size'])} prior standard "
        f"deviations; {page.number(sample['leapfrogs'])} "
        f"leapfrog steps in all chains and transitions together."
    )
    return page.table(["", "outputs", "weights"], rows, note=note)


def console_tables(numbers: Numbers) -> list[dict[str, Any]]:
    """What the command prints when a study ends: scores, distances to the reference, and the error ladder."""
    ladder = [_ladder_table(numbers["export"])] if numbers["export"]["ran"] else []
    return [_score_table(numbers), _distance_table(numbers), *ladder]


def _ladder_table(export: Mapping[str, Any]) -> dict[str, Any]:
    return page.table(
        ["rung", "compared with", "largest error", "mean error", "same top class", "bit-for-bit equal", "values"],
        [
            [
                rung["name"],
                rung["compared_with"],
                page.number(rung["max_abs_error"]),
                page.number(rung["mean_abs_error"]),
                f"{100 * rung['top1_agreement']:.2f} %",
                page.number(None) if rung["bit_for_bit"] is None else f"{100 * rung['bit_for_bit']:.2f} %",
                page.number(rung["num_values"]),
            ]
            for rung in export["ladder"]
        ],
        title="From float64 to hardware",
    )


def _export_blocks(numbers: Numbers, drawn: Mapping[str, str]) -> list[dict[str, Any]]:
    export = numbers["export"]
    if not export["ran"]:
        return []
    blocks: list[dict[str, Any]] = [_ladder_table(export)]
    if "ladder" in drawn:
        blocks.append(
            page.figures(
                _figure(drawn, "ladder", "error of each rung", "What each step from float64 to hardware changes.")
            )
        )
    if export.get("rtl"):
        rows = [[name, value] for name, value in export["rtl"]["table"].items()]
        blocks.append(page.table(["", "value"], rows, title="RTL by da4ml under Verilator"))
    return blocks


def _figure(drawn: Mapping[str, str], name: str, alt: str, caption: str) -> dict[str, str]:
    return {"source": drawn[name], "alt": alt, "caption": caption}


def _tilt(numbers: Numbers) -> str:
    return f"{numbers['data']['tilt_degrees']:g}°"


def _data_section(numbers: Numbers, drawn: Mapping[str, str]) -> dict[str, Any]:
    data = numbers["data"]
    return page.section(
        "data",
        "The digits on the sphere",
        [
            f"{data['description']} Each picture reaches {data['radius_degrees']:g}° from its centre to the middle of "
            f"a side, projected stereographically and sampled with the area of each pixel in mind; its pose is turned "
            f"by at most {_tilt(numbers)} about a random axis."
        ],
        page.figures(
            _figure(drawn, "spheres", "digits as Mollweide maps", "Training digits as Mollweide maps of the sphere.")
        ),
    )


def _training_section(numbers: Numbers, drawn: Mapping[str, str]) -> dict[str, Any]:
    config, losses = numbers["config"], numbers["train"]["final_losses"]["ensemble"]
    return page.section(
        "training",
        "Training, all members at once",
        [
            f"{config['ensemble']['members']} members of the {ENSEMBLE} and {config['dropout']['members']} networks "
            f"with {DROPOUT} were trained by vmap on the log joint that {REFERENCE} samples: the same network, "
            f"likelihood and Gaussian prior. Each member ends at a training loss between {page.number(min(losses))} "
            f"and {page.number(max(losses))} nats per image, prior included."
        ],
        page.figures(
            _figure(drawn, "learning", "learning curves of the ensemble", "Objective of each member of the ensemble."),
            _figure(drawn, "dropout", "learning curves under dropout", "The same under dropout's masks."),
        ),
    )


def _hmc_section(numbers: Numbers, drawn: Mapping[str, str]) -> dict[str, Any]:
    return page.section(
        "hmc",
        f"The reference: {REFERENCE}",
        [numbers["sample"]["sentence"]],
        page.figures(
            _figure(
                drawn,
                "chains",
                "diagnostics of the chains",
                "Left: split R-hat of the outputs on the test images and of the weights. The weights of a network "
                "have symmetries, so the outputs decide. Right: energy along each chain.",
            )
        ),
        _hmc_table(numbers),
    )


def _scores_section(numbers: Numbers, drawn: Mapping[str, str]) -> dict[str, Any]:
    return page.section(
        "scores",
        "Scores and calibration",
        [],
        _score_table(numbers),
        page.figures(
            _figure(
                drawn, "reliability", "reliability diagram", "Accuracy against confidence; the diagonal is honest."
            ),
            narrow=True,
        ),
    )


def _reference_section(numbers: Numbers, drawn: Mapping[str, str]) -> dict[str, Any]:
    return page.section(
        "reference",
        f"Every method against {REFERENCE}",
        [_verdict(numbers)["text"]],
        _distance_table(numbers),
        page.figures(
            _figure(
                drawn,
                "scatter",
                "entropy of each method against the reference",
                "One point for each test image; the last panel holds the reference against itself.",
            )
        ),
    )


def _rotation_section(numbers: Numbers, drawn: Mapping[str, str]) -> dict[str, Any]:
    return page.section(
        "rotation",
        "Turned away from the training poses",
        [
            f"Test digits are turned by a growing angle about a random axis. Training saw poses within "
            f"{_tilt(numbers)} only: an honest method grows unsure beyond it."
        ],
        page.figures(
            _figure(
                drawn,
                "rotation",
                "entropy and mutual information under rotation",
                "Mean over images with one standard error; shaded: angles that training saw.",
            )
        ),
        _rotation_table(numbers, "entropy", "Predictive entropy"),
        _rotation_table(numbers, "mutual_information", "Mutual information"),
    )


def _export_section(numbers: Numbers, drawn: Mapping[str, str]) -> dict[str, Any]:
    text = _bit_for_bit(numbers["export"])["text"]
    return page.section("export", "To hardware", [text], *_export_blocks(numbers, drawn))


def _run_section(numbers: Numbers) -> dict[str, Any]:
    config, timing = numbers["config"], numbers["timing"]
    seeds = ", ".join(f"{part} {values['seed']}" for part, values in config.items() if "seed" in values)
    return page.section(
        "run",
        "What was run",
        [
            f"{timing['machine']['system']}, {timing['machine']['cores']} cores, JAX devices: "
            f"{', '.join(timing['machine']['devices'])}. Peak memory "
            f"{page.bytes_text(timing['peak_memory_bytes']['process'])}, largest child process "
            f"{page.bytes_text(timing['peak_memory_bytes']['largest_child'])}. Seeds: {seeds}."
        ],
        page.table(
            ["stage", "seconds"],
            [[name, f"{value:.1f}"] for name, value in timing["seconds"].items()],
            title="Time",
        ),
        page.table(["package", "version"], list(numbers["versions"].items()), title="Versions", words=True),
        page.details("The whole configuration", json.dumps(config, indent=2)),
    )


def sections(numbers: Numbers, drawn: Mapping[str, str]) -> list[dict[str, Any]]:
    """The sections of the page, in reading order."""
    return [
        _data_section(numbers, drawn),
        _training_section(numbers, drawn),
        _hmc_section(numbers, drawn),
        _scores_section(numbers, drawn),
        _reference_section(numbers, drawn),
        _rotation_section(numbers, drawn),
        _export_section(numbers, drawn),
        _run_section(numbers),
    ]
