"""The page of a pretrain job: how accurate the trained models are."""

from ktjax.analysis.rows import Results
from ktjax.report import parts
from ktjax.report.parts import Table

DRAWINGS = (parts.PROGRESS,)


def title(results: Results) -> str:
    """The heading of the page."""
    return "Models trained"


def conclusion(results: Results) -> str:
    """One sentence: how many models were trained, and how accurate they are."""
    accuracies = [model.accuracy for model in results.models.values()]
    ends = [f"{accuracy:.2f}" for accuracy in sorted({min(accuracies), max(accuracies)})]
    models = "model" if len(accuracies) == 1 else "models"
    return f"{len(accuracies)} {models}, {' to '.join(ends)} % right."


def tables(results: Results) -> list[Table]:
    """The models, and how they do on the robustness sets, if the config names some."""
    heading = f"Accuracy on {parts.validation_images(results)}"
    return [parts.models_table(heading, results), *parts.robustness_tables(results)]
