"""Students that teach each other: student and teachers train at once (Bi-KD)."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tqdm

from ktjax import evaluate, parallel, train
from ktjax.analysis import measures
from ktjax.data import robustness
from ktjax.experiment import inputs, training
from ktjax.jobs.transfer import plan
from ktjax.jobs.transfer import setup as scene_lib
from ktjax.jobs.transfer.setup import Scene
from ktjax.joint import Joint


def runs_of_seed(
    scene: Scene, seed: int, bar: tqdm.tqdm
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """A row of results.json for every model, and its logits afterwards on validation, [N, C]."""
    config, splits = scene.config, scene.splits
    names = (config.student, *config.teachers)
    short = plan.short_names(names)
    before = [scene.models[name] for name in names]
    joint = Joint(tuple(standing.model for standing in before))
    predict = evaluate.make_predict(joint, batch_size=config.eval_batch_size)

    def measure(after_NxMxC: np.ndarray) -> dict[str, Any]:
        members = [
            scene_lib.measure_tune(
                standing.tune_NxC,
                after_NxMxC[:, i],
                np.asarray([other.tune_NxC for other in before if other is not standing]),
                splits.tune.label_N,
            )
            for i, standing in enumerate(before)
        ]
        accuracy = float(np.mean([member["accuracy"] for member in members]))
        return {"accuracy": accuracy, "members": members}

    for label in config.objectives:
        run = f"{label}-{'+'.join(short.values())}-{seed}"
        recipe = scene_lib.make_recipe(
            scene, label, student=joint, teachers=(), teach=train.teach_nothing, seed=seed
        )
        fitted = training.fit(
            recipe,
            student=joint,
            frozen=tuple,
            images=splits.train,
            tune=splits.tune,
            predict=predict,
            measure=measure,
            run=run,
            workdir=scene.workdir,
        )
        bar.update()
        after = parallel.place(fitted.variables, config.parallel)
        after_NxMxC = predict(after, splits.validation)
        challenged = {
            name: predict(after, images) for name, (_, images) in scene.robustness.items()
        }
        for i, model in enumerate(joint.with_variables(fitted.variables)):
            others = [name for name in names if name != names[i]]
            measured = measures.of_transfer(
                before_NxC=before[i].validation_NxC,
                after_NxC=after_NxMxC[:, i],
                teachers_KxNxC=np.asarray([scene.models[o].validation_NxC for o in others]),
                label_N=splits.validation.label_N,
            )
            row = training.row(
                [_of_member(entry, i) for entry in fitted.history],
                run=f"{run}/{short[names[i]]}",
                student=names[i],
                teachers=others,
                objective=label,
                seed=seed,
                measured=measured,
            )
            robust = {
                name: robustness.accuracy(chosen, challenged[name][:, i])
                for name, (chosen, _) in scene.robustness.items()
            }
            row["robustness"] = inputs.robust_row(before[i].robustness, robust)
            origin = f"{names[i]} after {label} with {' + '.join(others)}, seed {seed}"
            scene_lib.export(scene, dataclasses.replace(model, origin=origin), row, bar)
            nothing = dict.fromkeys((*measures.OF_PARTITION, "temperatures"))
            yield row | nothing | {"stages": []}, after_NxMxC[:, i]


def _of_member(entry: dict[str, Any], member: int) -> dict[str, Any]:
    """What an entry of the common history says of one model."""
    common = {name: entry[name] for name in ("step", "epoch", "loss", "seconds")}
    tune = entry["tune"]["members"][member]
    taught = entry[f"taught_model_{member}"]
    return common | {"accuracy": tune["accuracy"], "taught": taught, "tune": tune}
