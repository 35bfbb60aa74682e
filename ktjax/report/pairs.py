"""The page of a complementarity job: what every model could teach every other."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ktjax.analysis import transfers
from ktjax.analysis.rows import ComplementarityResults, ZooPair
from ktjax.report import figures_pairs, figures_transfers, names, parts
from ktjax.report.parts import Drawing, Table

BEST = 3  # teachers that the page names for each student
NAMES = {
    "family": "family",
    "inductive_bias": "inductive bias",
    "protocol": "training protocol",
}
DRAWINGS = (
    Drawing(
        "rho_pos",
        figures_pairs.heat_rows,
        figures_pairs.heat,
        "rho_pos: share of the images on which the teacher is right and the student wrong. A "
        "column shows what each teacher could teach one student, a row what one teacher could "
        "teach each student.",
    ),
    Drawing(
        "pairs",
        figures_pairs.pair_rows,
        figures_pairs.against_accuracy,
        "A point per pair. Left of zero the teacher is the weaker model. If it knew nothing of "
        "its own, its points would lie on the dotted line.",
    ),
    Drawing(
        "entropy",
        figures_pairs.entropy_rows,
        figures_pairs.entropy,
        "A histogram of pairs. Further to the left, a teacher's knowledge is concentrated in fewer "
        "classes; at 1 it is the same in every class.",
    ),
    Drawing(
        "areas",
        figures_pairs.area_rows,
        figures_pairs.areas,
        "The classes that hold half of the positive flips from the best complement to the most "
        "accurate model (at most 20 classes).",
    ),
    Drawing(
        "similarity",
        figures_pairs.similarity_rows,
        figures_pairs.similarity,
        "Boxes above the dashed line: the classes in which a teacher knows more are more similar "
        "than classes are on average. Whiskers extend to the extremes.",
    ),
    Drawing(
        "transfer_delta",
        figures_transfers.rows,
        figures_transfers.delta,
        "A point per transfer. Above zero the student improved; left of the dotted line its "
        "teacher was the weaker one. Each objective has its own scale.",
    ),
    Drawing(
        "transfer_success",
        figures_transfers.success_rows,
        figures_transfers.success,
        "A point for each student; the box spans the middle half of them, its bar is the median.",
    ),
    Drawing(
        "transfer_foresight",
        figures_transfers.rows,
        figures_transfers.foresight,
        "A point per transfer. Where the points rise to the right, the best teacher could be told "
        "before any training. Each objective has its own scale.",
    ),
)


def title(results: ComplementarityResults) -> str:
    """The heading of the page."""
    random = len({row["student"] for row in results.controls["random_students"]})
    controls = f" and {names.counted(random, 'control')} with random weights" if random else ""
    return f"Complementary knowledge of {names.counted(len(results.models), 'model')}{controls}"


def conclusion(results: ComplementarityResults) -> str:
    """One sentence: the positive flips of all pairs, and the interval of the smallest."""
    pairs = results.pairs
    lowest = min(pairs, key=lambda pair: pair.rho_pos)
    rho = [pair.rho_pos for pair in pairs]
    above = sum(value > 2 for value in rho)
    return (
        f"Of {len(pairs)} ordered pairs, {above} have positive flips on more than 2 % of the "
        f"images: median {np.median(rho):.2f} %, largest {max(rho):.2f} %, smallest "
        f"{lowest.rho_pos:.2f} % (95 % interval {lowest.rho_pos_low:.2f} to "
        f"{lowest.rho_pos_high:.2f} %; teacher {lowest.teacher}, student "
        f"{lowest.student})."
    )


def summary(results: ComplementarityResults) -> str:
    """The result in plain language, a few sentences."""
    weaker = [pair for pair in results.pairs if pair.accuracy_difference < 0]
    sentences = [conclusion(results)]
    if weaker:
        mean = np.mean([pair.rho_pos for pair in weaker])
        sentences.append(
            f"A weaker teacher is right where its student is wrong on {mean:.2f} % of the images, "
            "averaged over pairs."
        )
    correlations = [pair.error_correlation for pair in results.pairs]
    known = [value for value in correlations if value is not None]
    if known:
        sentences.append(
            f"The errors of models correlate, by {min(known):.2f} to {max(known):.2f}; the "
            "correlation of independent errors is 0."
        )
    return " ".join(sentences)


def tables(results: ComplementarityResults) -> list[Table]:
    """A row per student, the most accurate first, with its best teachers."""
    heading = f"What each student could learn, on {parts.validation_images(results)}"
    note = (
        "rho_pos: share of the images on which a teacher is right and the student wrong, from the "
        "smallest to the largest over its teachers. partition gain: what a student that learned "
        "the partitioned targets perfectly would gain, in points; each image is answered by the "
        "student or teacher that gives its label more probability. ensemble gain: the same without "
        "labels, by the more confident of the two. first teachers: those with the largest ensemble "
        "gain, which ranks teachers about as transfers do, and about as well as their accuracy "
        "alone (configs/pools.py). "
        f"For comparison, {parts.of_chance(results)}."
    )
    header = ["student", "accuracy %", "rho_pos %", "partition gain", "ensemble gain"]
    header += ["first teachers"]
    models = results.models
    rows = []
    for student in sorted(models, key=lambda name: -models[name].accuracy):
        own = [pair for pair in results.pairs if pair.student == student]
        rho, gain, of_ensemble = (
            [getattr(pair, key) for pair in own]
            for key in ("rho_pos", "partition_gain", "partition_gain_unsupervised")
        )
        rows.append(
            [
                student,
                f"{models[student].accuracy:.2f}",
                f"{min(rho):.2f} to {max(rho):.2f}",
                f"{min(gain):+.2f} to {max(gain):+.2f}",
                f"{min(of_ensemble):+.2f} to {max(of_ensemble):+.2f}",
                _first(own, names.shortest(models)),
            ]
        )
    return [Table(heading, header, [rows], words=("student", "first teachers"), note=note)]


def sections(results: ComplementarityResults) -> list[Table]:
    """Controls, how certain the numbers are, past transfers if there are any, and models."""
    found = [_controls(results), _certainty(results)]
    if results.transfers["rows"]:
        found += [_foresight(results), _properties(results), *_groups(results)]
    return [*found, parts.models_table("Models", results)]


def _first(own: Sequence[ZooPair], short: Mapping[str, str]) -> str:
    """The first teachers of one student, by their `short` names."""
    ranked = sorted(own, key=lambda pair: pair.rank_partition_gain_unsupervised)
    return ", ".join(short[pair.teacher] for pair in ranked[:BEST])


def _controls(results: ComplementarityResults) -> Table:
    shuffled = results.controls["shuffled"]
    note = (
        "An untrained student knows nothing of what its teacher knows: rho_pos is about the "
        "teacher's accuracy. With the samples of each model shuffled, errors are independent, and "
        f"rho_pos is accuracy(teacher) x (1 - accuracy(student)): {shuffled['rho_pos_mean']:.2f} % "
        f"on average over pairs, expected {shuffled['expected_mean']:.2f} %, largest difference "
        f"for a pair {shuffled['largest_difference']:.2f} points."
    )
    rows: dict[str, list[list[str]]] = {}
    for row in results.controls["random_students"]:
        cells = [f"random {row['student']} ({row['student_accuracy']:.2f} %)", row["teacher"]]
        cells += [f"{row['teacher_accuracy']:.2f}", f"{row['rho_pos']:.2f}"]
        rows.setdefault(row["student"], []).append(cells)
    header = ["student", "teacher", "accuracy of teacher %", "rho_pos %"]
    return Table("Controls", header, list(rows.values()), ("student", "teacher"), note)


def _certainty(results: ComplementarityResults) -> Table:
    note = (
        "The ten pairs with the fewest positive flips. interval: Clopper and Pearson's, exact, "
        "95 %. if independent: rho_pos if errors were independent. p: McNemar's exact test that "
        "the two models are equally accurate. agreement: the same answer. errors correlate: 0 if "
        "independent. either right: at least one of the two is right. more confident: accuracy if "
        "the more confident of the two answers."
    )
    header = ["teacher", "student", "rho_pos %", "interval", "if independent %", "rho_neg %", "p"]
    header += ["agreement %", "errors correlate", "either right %", "more confident %"]
    lowest = sorted(results.pairs, key=lambda pair: pair.rho_pos)[:10]
    rows = [
        [
            pair.teacher,
            pair.student,
            f"{pair.rho_pos:.2f}",
            f"{pair.rho_pos_low:.2f} to {pair.rho_pos_high:.2f}",
            f"{pair.rho_pos_independent:.2f}",
            f"{pair.rho_neg:.2f}",
            f"{pair.mcnemar_p:.2g}" if pair.mcnemar_p > 1e-99 else "< 1e-99",
            f"{pair.agreement:.2f}",
            parts.told(pair.error_correlation, ".2f"),
            f"{pair.oracle_accuracy:.2f}",
            f"{pair.ensemble_accuracy:.2f}",
        ]
        for pair in lowest
    ]
    return Table("Certainty", header, [rows], ("teacher", "student"), note)


def _foresight(results: ComplementarityResults) -> Table:
    note = (
        "Spearman's rank correlation between what was known before any training and what the "
        "weights at the end of training changed in accuracy: 1 if the ranking was right, 0 if it "
        "said nothing."
    )
    header = ["objective", "student", "pairs"]
    header += [name.replace("_", " ") for name in transfers.FORESEEN]
    rows: dict[str, list[list[str]]] = {}
    for row in results.transfers["foresight"]:
        cells = [row["objective"], row["student"] or "all", str(row["pairs"])]
        cells += [parts.told(row[name], "+.2f") for name in transfers.FORESEEN]
        rows.setdefault(row["objective"], []).append(cells)
    heading = "Predicting the best teacher"
    return Table(heading, header, list(rows.values()), ("objective", "student"), note)


def _properties(results: ComplementarityResults) -> Table:
    note = (
        "Correlation over pairs, Pearson / Spearman, of what a transfer changed (delta: accuracy, "
        "gain, loss: answers that became right, wrong; last delta: accuracy, by the weights at the "
        "end of training) with a property of its student or teacher."
    )
    header = ["objective", "of", "property", "pairs", *_outcomes()]
    cells: dict[tuple[str, str, str], dict[str, Any]] = {}
    for row in results.transfers["properties"]:
        cells.setdefault((row["objective"], row["side"], row["property"]), {})[row["outcome"]] = row
    rows: dict[str, list[list[str]]] = {}
    for (objective, side, name), of in cells.items():
        both = [
            " / ".join(parts.told(of[outcome][kind], "+.2f") for kind in ("pearson", "spearman"))
            for outcome in transfers.OUTCOMES
        ]
        pairs = str(of["delta"]["pairs"])
        rows.setdefault(objective, []).append([objective, side, name, pairs, *both])
    heading, words = "What transfers depend on", ("objective", "of", "property")
    return Table(heading, header, list(rows.values()), words, note)


def _groups(results: ComplementarityResults) -> list[Table]:
    """By family, inductive bias and training protocol, where these are known."""
    of_kind: dict[str, dict[str, list[list[str]]]] = {}
    for row in results.transfers["groups"]:
        cells = [row["objective"], row["side"], row["kind"], str(row["pairs"])]
        cells += [f"{row['delta']:+.2f}", f"{row['gain']:.2f}", f"{row['loss']:.2f}"]
        cells.append(f"{row['last_delta']:+.2f}")
        of_kind.setdefault(row["by"], {}).setdefault(row["objective"], []).append(cells)
    found = []
    for by, rows in of_kind.items():
        name = NAMES[by]
        note = (
            f"Mean over the pairs whose student or teacher is of this {name}: delta, the change in "
            "accuracy in points; gain and loss, the share of images that became right and wrong; "
            "last delta, delta by the weights at the end of training."
        )
        header = ["objective", "of", name, "pairs", *_outcomes()]
        table = Table(f"By {name}", header, list(rows.values()), ("objective", "of", name), note)
        found.append(table)
    return found


def _outcomes() -> list[str]:
    return [name.replace("_", " ") for name in transfers.OUTCOMES]
