"""The page of a convergence job: which models have converged."""

from typing import Any

from ktjax.analysis.rows import ConvergenceResults
from ktjax.report import parts
from ktjax.report.parts import Table

NOTE = (
    "Gains in points by more training on labels alone, the mean over seeds. at: the gain at each "
    "learning rate, on the half of tune that picks one. gain: of the picked one on the other half, "
    "± one standard error; upper: the upper end of its one-sided 95 % interval. A model has "
    "converged if that is less than config.most_gain; validation only confirms."
)
DRAWINGS = ()


def title(results: ConvergenceResults) -> str:
    """The heading of the page."""
    return "Have the models converged?"


def conclusion(results: ConvergenceResults) -> str:
    """One sentence: how many models have converged."""
    most = results.config["most_gain"]
    at_end = sum(check.at_its_end for check in results.checks)
    models = "model" if len(results.checks) == 1 else "models"
    are = "is" if at_end == 1 else "are"
    return (
        f"{at_end} of {len(results.checks)} {models} {are} converged: more training on labels "
        f"alone gains less than {most:g} points."
    )


def tables(results: ConvergenceResults) -> list[Table]:
    """A row for each model."""
    rates = [f"{rate:g}" for rate in results.config["learning_rates"]]
    header = [
        *("model", "accuracy %", *(f"at {rate}" for rate in rates)),
        *("picked", "gain", "upper", "on validation", "converged"),
    ]
    rows = [_row(check, rates) for check in results.checks]
    heading = f"Accuracy on {parts.validation_images(results)}, and what more training gains"
    return [Table(heading, header, [rows], words=("model", "converged"), note=NOTE)]


def _row(check: Any, rates: list[str]) -> list[str]:
    return [
        check.model,
        f"{check.accuracy:.2f}",
        *(
            "diverged" if check.picked_on[r] is None else f"{check.picked_on[r]:+.2f}"
            for r in rates
        ),
        f"{check.learning_rate:g}",
        f"{check.gain:+.2f} ± {check.gain_se:.2f}",
        f"{check.upper:+.2f}",
        f"{check.validation_gain:+.2f} ± {check.validation_gain_se:.2f}",
        "yes" if check.at_its_end else "no",
    ]
