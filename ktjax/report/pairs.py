"""What tables.py and report.py say of a complementarity job: sentences, rows, list of figures."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ktjax.analysis import transfers
from ktjax.report import figures_pairs, figures_transfers

Results = Mapping[str, Any]

BEST = 3  # teachers that the page names for each student
TEXT_COLUMNS = ("of", "property", "family", "first teachers by rho_pos", "first teachers by gain")
FIGURES = (  # file name, its data, how to draw it, how to read it
    (
        "rho_pos",
        figures_pairs.heat_rows,
        figures_pairs.heat,
        "Read along a column what each teacher could teach one student, along a row what one "
        "teacher could teach each.",
    ),
    (
        "pairs",
        figures_pairs.pair_rows,
        figures_pairs.against_accuracy,
        "Left of zero the teacher is the weaker model. If it knew nothing of its own, its points "
        "would lie on the dotted line.",
    ),
    (
        "entropy",
        figures_pairs.entropy_rows,
        figures_pairs.entropy,
        "Further to the left, what a teacher knows is concentrated in fewer classes.",
    ),
    (
        "areas",
        figures_pairs.area_rows,
        figures_pairs.areas,
        "The classes that hold half of the positive flips of the most accurate model's best "
        "complement (of these, the first 20).",
    ),
    (
        "similarity",
        figures_pairs.similarity_rows,
        figures_pairs.similarity,
        "Boxes above the dashed line: the classes in which one teacher knows more are more alike "
        "than any two classes. Whiskers reach to the extremes.",
    ),
    (
        "transfer_delta",
        figures_transfers.rows,
        figures_transfers.delta,
        "Above zero the student improved; left of the dotted line its teacher was the weaker one. "
        "Each objective has a scale of its own.",
    ),
    (
        "transfer_success",
        figures_transfers.success_rows,
        figures_transfers.success,
        "A point for each student; the box spans the middle half of them, its bar is the median.",
    ),
    (
        "transfer_foresight",
        figures_transfers.rows,
        figures_transfers.foresight,
        "Where the points rise to the right, the teacher to take was known before any training. "
        "Each objective has a scale of its own.",
    ),
)


def title(results: Results) -> str:
    """The heading of the page."""
    return f"Complementary knowledge of {len(results['models'])} models"


def conclusion(results: Results) -> str:
    """One sentence: how much every pair has, and what chance would give."""
    pairs = results["pairs"]
    lowest = min(pairs, key=lambda pair: pair["rho_pos"])
    rho = [pair["rho_pos"] for pair in pairs]
    above = sum(value > 2 for value in rho)
    return (
        f"Of {len(pairs)} ordered pairs {above} have positive flips on more than 2 % of the "
        f"images: median {np.median(rho):.2f} %, largest {max(rho):.2f} %, least "
        f"{lowest['rho_pos']:.2f} % (95 % interval {lowest['rho_pos_low']:.2f} to "
        f"{lowest['rho_pos_high']:.2f} %; teacher {lowest['teacher']}, student "
        f"{lowest['student']})."
    )


def summary(results: Results) -> str:
    """The result in plain language, a few sentences."""
    weaker = [pair for pair in results["pairs"] if pair["accuracy_difference"] < 0]
    sentences = [conclusion(results)]
    if weaker:
        mean = np.mean([pair["rho_pos"] for pair in weaker])
        sentences.append(
            f"A weaker teacher is right where its student fails on {mean:.2f} % of the images, in "
            "the mean over pairs."
        )
    correlations = [pair["error_correlation"] for pair in results["pairs"]]
    known = [value for value in correlations if value is not None]
    if known:
        sentences.append(
            f"Models err together: the correlation of their errors is {min(known):.2f} to "
            f"{max(known):.2f}, where independent errors would have 0."
        )
    return " ".join(sentences)


def table(results: Results) -> tuple[list[str], list[list[list[str]]]]:
    """For the terminal and the page: header, and a row per student, the most accurate first."""
    header = ["student", "accuracy %", "rho_pos %", "first teachers by rho_pos"]
    header += ["partition gain", "first teachers by gain"]
    models = results["models"]
    rows = []
    for student in sorted(models, key=lambda name: -models[name]["accuracy"]):
        own = [pair for pair in results["pairs"] if pair["student"] == student]
        rho, gain = ([pair[key] for pair in own] for key in ("rho_pos", "partition_gain"))
        rows.append(
            [
                student,
                f"{models[student]['accuracy']:.2f}",
                f"{min(rho):.2f} to {max(rho):.2f}",
                _first(own, "rank_rho_pos"),
                f"{min(gain):+.2f} to {max(gain):+.2f}",
                _first(own, "rank_partition_gain"),
            ]
        )
    return header, [rows]


def sections(results: Results) -> list[tuple[str, str, list[str], list[list[list[str]]]]]:
    """The further tables of the page: heading, note, header, groups of rows."""
    found = [("Controls", *_controls(results)), ("Certainty", *_certainty(results))]
    if results["transfers"]["rows"]:
        found.append(("Which teacher to take, and what happened", *_foresight(results)))
        found.append(("What transfers depend on", *_properties(results)))
        found.append(("Families", *_families(results)))
    return found


def _first(own, rank):
    """The first teachers of one student, by name."""
    names = [pair["teacher"] for pair in sorted(own, key=lambda pair: pair[rank])[:BEST]]
    return ", ".join(name.rstrip("/").rpartition("/")[2] for name in names)


def _controls(results):
    shuffled = results["controls"]["shuffled"]
    note = (
        "A student that has learned nothing lacks all that its teacher knows: rho_pos is about the "
        "teacher's accuracy. With the samples of each model shuffled, errors are independent, and "
        f"rho_pos is accuracy(teacher) x (1 - accuracy(student)): {shuffled['rho_pos_mean']:.2f} % "
        f"in the mean over pairs, expected {shuffled['expected_mean']:.2f} %, largest difference "
        f"of a pair {shuffled['largest_difference']:.2f} points."
    )
    rows: dict[str, list[list[str]]] = {}
    for row in results["controls"]["random_students"]:
        cells = [f"random {row['student']} ({row['student_accuracy']:.2f} %)", row["teacher"]]
        cells += [f"{row['teacher_accuracy']:.2f}", f"{row['rho_pos']:.2f}"]
        rows.setdefault(row["student"], []).append(cells)
    return note, ["student", "teacher", "accuracy of teacher %", "rho_pos %"], list(rows.values())


def _certainty(results):
    note = (
        "The ten pairs with the fewest positive flips. Interval: Clopper and Pearson's, exact, "
        "95 %. If errors were independent: what rho_pos would be. p: McNemar's exact test that the "
        "two models are equally accurate."
    )
    header = ["teacher", "student", "rho_pos %", "interval", "if independent %", "rho_neg %", "p"]
    header += ["agreement %", "errors correlate", "either right %", "surer of the two %"]
    lowest = sorted(results["pairs"], key=lambda pair: pair["rho_pos"])[:10]
    rows = [
        [
            pair["teacher"],
            pair["student"],
            f"{pair['rho_pos']:.2f}",
            f"{pair['rho_pos_low']:.2f} to {pair['rho_pos_high']:.2f}",
            f"{pair['rho_pos_independent']:.2f}",
            f"{pair['rho_neg']:.2f}",
            f"{pair['mcnemar_p']:.2g}" if pair["mcnemar_p"] > 1e-99 else "< 1e-99",
            f"{pair['agreement']:.2f}",
            _text(pair["error_correlation"], ".2f"),
            f"{pair['oracle_accuracy']:.2f}",
            f"{pair['ensemble_accuracy']:.2f}",
        ]
        for pair in lowest
    ]
    return note, header, [rows]


def _foresight(results):
    note = (
        "Spearman's rank correlation between what was known before any training and the transfer "
        "delta that followed: 1 where the ranking was right, 0 where it told nothing."
    )
    header = ["objective", "student", "pairs"]
    header += [name.replace("_", " ") for name in transfers.FORESEEN]
    rows: dict[str, list[list[str]]] = {}
    for row in results["transfers"]["foresight"]:
        cells = [row["objective"], row["student"] or "all", str(row["pairs"])]
        cells += [_text(row[name], "+.2f") for name in transfers.FORESEEN]
        rows.setdefault(row["objective"], []).append(cells)
    return note, header, list(rows.values())


def _properties(results):
    note = "Correlation over pairs, Pearson / Spearman, of what a transfer changed with its models."
    header = ["objective", "of", "property", "pairs", *transfers.OUTCOMES]
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in results["transfers"]["properties"]:
        cells.setdefault((row["objective"], row["side"], row["property"]), {})[row["outcome"]] = row
    rows: dict[str, list[list[str]]] = {}
    for (objective, side, name), of in cells.items():
        both = [
            f"{_text(of[outcome]['pearson'], '+.2f')} / {_text(of[outcome]['spearman'], '+.2f')}"
            for outcome in transfers.OUTCOMES
        ]
        pairs = str(of["delta"]["pairs"])
        rows.setdefault(objective, []).append([objective, side, name, pairs, *both])
    return note, header, list(rows.values())


def _families(results):
    note = "Mean over pairs, in points and percent of the images."
    header = ["objective", "of", "family", "pairs", *transfers.OUTCOMES]
    rows: dict[str, list[list[str]]] = {}
    for row in results["transfers"]["families"]:
        cells = [row["objective"], row["side"], row["family"], str(row["pairs"])]
        cells += [f"{row['delta']:+.2f}", f"{row['gain']:.2f}", f"{row['loss']:.2f}"]
        rows.setdefault(row["objective"], []).append(cells)
    return note, header, list(rows.values())


def _text(value, form):
    return "-" if value is None else format(value, form)
