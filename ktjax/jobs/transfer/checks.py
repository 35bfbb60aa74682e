"""What a transfer refuses before any work, and what its settings name."""

from collections.abc import Mapping

from ktjax import data, models, objectives, train
from ktjax.classifier import Classifier
from ktjax.experiment import inputs, recipes, stores
from ktjax.jobs.transfer import plan
from ktjax.models import registry
from ktjax.settings.transfer import Transfer
from ktjax.targets import store


def check(settings: Transfer, given: Mapping[str, Classifier] | None = None) -> None:
    """Raises ValueError unless the settings go together; nothing is loaded, compiled or written.

    `given` are models passed along with the settings, by their names in the settings.
    """
    given = given or {}
    inputs.check(settings)
    recipes.check(settings)
    strategy = plan.STRATEGIES[settings.strategy]
    for label, entry in settings.objectives.items():
        known = objectives.OBJECTIVES[entry.objective]
        if plan.asks_teachers(entry) and not settings.teachers:
            raise ValueError(f"config.teachers has 0 entries, and {label} takes 1 or more.")
        if known.joint != strategy.joint:
            fitting = [k for k, v in objectives.OBJECTIVES.items() if v.joint != known.joint]
            raise ValueError(
                f"Strategy '{settings.strategy}' does not support objective '{entry.objective}': "
                f"it takes {', '.join(fitting)}."
            )
        of_logits = [name for name in settings.teachers if name.startswith(store.PREFIX)]
        if known.features and (settings.targets == "stored" or of_logits):
            raise ValueError(
                f"Objective '{entry.objective}' compares features, but stored targets are logits: "
                "set config.targets to live, with teachers that can be run."
            )
    if settings.student.startswith(store.PREFIX):
        raise ValueError(f"config.student='{settings.student}': a store has no weights to train.")
    names = (settings.student, *settings.teachers)
    _check_given(settings, given, names)
    # Two models of one architecture have one forward function: their weights tell them apart.
    places = [id(given[n].variables) if n in given else identity(n) for n in names]
    if len(set(places)) < len(names):
        raise ValueError(f"Student and teachers must differ: {', '.join(names)}.")
    if settings.drop_path_rate:
        for name in trained(settings):
            if name in given or not drops_paths(name):
                raise ValueError(
                    f"config.drop_path_rate={settings.drop_path_rate}: {name} is a "
                    f"{_architecture(name, given)}, which has no stochastic depth."
                )
    for label, entry in settings.objectives.items():
        if strategy.joint and entry.learning_rate is None:
            raise ValueError(
                f"Strategy '{settings.strategy}' trains several models at once, at one learning "
                f"rate: config.objectives.{label}.learning_rate must be a number."
            )
    plan.plan(settings, dict.fromkeys(settings.teachers, 0.0))
    found = stores.teachers(settings)
    if strategy.joint and (settings.calibrate or settings.targets == "stored" or found):
        raise ValueError(
            f"Strategy '{settings.strategy}' has no frozen models: config.calibrate, stored "
            "config.targets and teachers that are a store do not apply."
        )
    if strategy.joint and settings.export != "last":
        raise ValueError(
            f"Strategy '{settings.strategy}' trains several models at once, and makes no decision "
            "about one of them: set config.export to last."
        )
    stores.check_teachers(settings)


def check_labels(settings: Transfer, dataset: data.Dataset) -> None:
    """Raises ValueError, with objectives to use instead, if needed labels are missing."""
    if not dataset.train.labeled:
        need = {
            label: objectives.OBJECTIVES[entry.objective]
            for label, entry in settings.objectives.items()
            if objectives.needs_labels(entry.objective, entry.options())
        }
        if need:
            instead = ", ".join(_without_labels(label, known) for label, known in need.items())
            raise ValueError(
                f"'{settings.data}' has images without labels, without which {', '.join(need)} "
                f"cannot train: take {instead}."
            )
    for name in ("tune", "validation", "accept"):
        images = getattr(dataset, name)
        if images is not None and not images.labeled:
            raise ValueError(
                f"'{settings.data}' has {name} images without labels: these measure the transfer, "
                "and need labels with any objective. Set config.eval_data to a labeled data set."
            )


def identity(name: str) -> str:
    """Tells models apart, and teachers that are only a store; see `models.identity`."""
    if name.startswith(store.PREFIX):
        return str(store.open_store(name).folder.resolve())
    return models.identity(name)


def trained(settings: Transfer) -> tuple[str, ...]:
    """The models that are trained."""
    joint = plan.STRATEGIES[settings.strategy].joint
    return (settings.student, *(settings.teachers if joint else ()))


def drops_paths(name: str) -> bool:
    """Whether the model's architecture has stochastic depth."""
    return "drop_path_rate" in registry.options_of(models.locate(name).config["architecture"])


def _check_given(
    settings: Transfer, given: Mapping[str, Classifier], names: tuple[str, ...]
) -> None:
    """Raises ValueError unless the given models are used, and return what objectives compare."""
    unknown = sorted(given.keys() - set(names))
    if unknown:
        raise ValueError(
            f"Neither config.student nor config.teachers names the given {', '.join(unknown)}."
        )
    for label, entry in settings.objectives.items():
        if not objectives.OBJECTIVES[entry.objective].features:
            continue
        for name, model in given.items():
            if train.output_shapes(model, (), size=32).student.features is None:
                raise ValueError(
                    f"{label} compares features, but {name} returns none: let it return (logits, "
                    "features)."
                )


def _architecture(name: str, given: Mapping[str, Classifier]) -> str:
    return given[name].architecture if name in given else models.locate(name).config["architecture"]


def _without_labels(label: str, known: objectives.Entry) -> str:
    """What to take instead: the end of a sentence."""
    if known.joint:
        return "another strategy than mutual"
    if not known.labels:
        return f"all flips for {label}: {', '.join(objectives.FLIPS)}"
    return f"{known.without_labels} instead of {label}"
