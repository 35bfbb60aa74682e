"""Students that teach each other: student and teachers train at once (Bi-KD)."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm

from ktjax import evaluate, files, optim, progress, train
from ktjax.experiment import evaluation, recipes, rows, training
from ktjax.jobs.transfer import export, frozen, plan, setup
from ktjax.jobs.transfer.setup import Done, Setup
from ktjax.joint import Joint
from ktjax.models.checkpoints import card


def runs(start: Setup) -> Iterator[Done]:
    """One result for every model of every run, then the controls of every model."""
    settings = start.settings
    asked = [(seed, label) for seed in settings.seeds for label in settings.objectives]
    members = [start.models[name] for name in (settings.student, *settings.teachers)]
    joint = Joint(tuple(member.model for member in members))
    predict = evaluate.make_predict(joint, batch_size=settings.eval_batch_size)
    controls = [_plan_controls(start, name) for name in (settings.student, *settings.teachers)]
    total = len(asked) + sum(len(planned) for _, planned in controls)
    with progress.bar(total=total, desc="transfers", unit="run", shown=start.report) as bar:
        made = {label: _recipe(start, joint, label) for label in settings.objectives}
        for seed, label in asked:
            recipe = made[label]._replace(seed=seed)
            yield from _run(start, joint, recipe, predict, label, bar)
        for alone, planned in controls:
            yield from frozen.controls(alone, planned, bar)


def _plan_controls(start: Setup, name: str) -> tuple[Setup, tuple[plan.Run, ...]]:
    """The setup of the controls of one model, and their runs."""
    settings = start.settings
    short = files.short_names((settings.student, *settings.teachers))
    model = start.models[name].model
    predict = evaluate.make_predict(model, batch_size=settings.eval_batch_size)
    return frozen.plan_controls(start._replace(student=name, predict=predict), short[name])


def _recipe(start: Setup, joint: Joint, label: str) -> recipes.Recipe:
    """The recipe of an objective, with the first seed."""
    (rate,) = plan.rates(start.settings, label)
    return setup.make_recipe(
        start,
        label,
        student=joint,
        teachers=(),
        learning_rate=rate,
        teach=train.teach_nothing,
        seed=start.settings.seeds[0],
        # Each has its own optimizer state and gradient norm.
        wrap=functools.partial(optim.per_member, members=joint.keys),
    )


def _run(
    start: Setup,
    joint: Joint,
    recipe: recipes.Recipe,
    predict: evaluate.Predict,
    label: str,
    bar: tqdm.tqdm,
) -> Iterator[Done]:
    settings, splits, seed = start.settings, start.splits, recipe.seed
    names = (settings.student, *settings.teachers)
    short = files.short_names(names)
    run = f"{label}-{files.joined(list(short.values()))}-{seed}"
    (rate,) = plan.rates(settings, label)
    fitted = training.fit(
        recipe,
        student=joint,
        frozen=lambda view: (),
        images=splits.train,
        tune=splits.tune,
        predict=predict,
        measure=lambda logits_NxMxC: _on_tune(start, names, logits_NxMxC),
        run=run,
        workdir=start.workdir,
    )
    bar.update()
    answers = evaluation.ask(
        predict, fitted.placed, splits, layout=settings.parallel, tune=fitted.tune_NxC
    )
    for i, model in enumerate(joint.with_variables(fitted.variables)):
        teachers = {name: start.models[name] for name in names if name != names[i]}
        history = [_of_member(entry, i) for entry in fitted.history]
        others = " + ".join(map(card.told, teachers))
        origin = f"{card.told(names[i])} after {label} with {others}, seed {seed}"
        model = dataclasses.replace(model, origin=origin)
        after = evaluation.judge(model, answers.member(i), splits, calibrate=False, trained=True)
        row = rows.of_run(
            run=f"{run}/{short[names[i]]}",
            student=names[i],
            objective=label,
            seed=seed,
            before=start.models[names[i]],
            after=after,
            teachers=teachers,
            label_N=splits.validation.label_N,
            history=history,
            seconds=history[-1]["seconds"],
            taught=training.mean_taught(history),
            checkpoint=fitted.checkpoint,
            learning_rate=rate,
            exported=export.LAST,
        )
        setup.export(start, model, row, bar)
        yield Done(row, after.validation_NxC)


def _on_tune(start: Setup, names: tuple[str, ...], logits_NxMxC: np.ndarray) -> dict[str, Any]:
    """The measures of every model, and the mean of their accuracies."""
    before = [start.models[name].tune_NxC for name in names]
    members = [
        rows.on_tune(
            before[i],
            logits_NxMxC[:, i],
            np.asarray(before[:i] + before[i + 1 :]),
            start.splits.tune.label_N,
        )
        for i in range(len(names))
    ]
    accuracy = float(np.mean([member["accuracy"] for member in members]))
    return {"accuracy": accuracy, "members": members}


def _of_member(entry: dict[str, Any], member: int) -> dict[str, Any]:
    """One model's part of an entry of the common history."""
    common = {name: entry[name] for name in ("step", "epoch", "loss", "seconds")}
    tune = entry["tune"]["members"][member]
    taught = entry[f"taught_model_{member}"]
    return common | {"accuracy": tune["accuracy"], "taught": taught, "tune": tune}
