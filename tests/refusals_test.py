"""What jobs refuse: before anything is compiled or written."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy
from small_jobs import (
    CLASSES,
    make_images,
    pretraining,
    studying,
    transferring,
    tree,
)

from ktjax import parallel
from ktjax.jobs import pretrain, study, transfer
from ktjax.models.checkpoints import weights

OF_BOTH = [
    (dict(data="glyphz"), r"'glyphz'.*glyphs"),
    (dict(data="folder:/nowhere"), r"/nowhere"),
    (dict(optimizer="sdg"), r"optimizer='sdg'.*sgd, adamw"),
    (dict(schedule="linear"), r"schedule='linear'.*constant, cosine"),
    (dict(augment="flip"), r"augment='flip'.*none, shift_colour"),
    (dict(dtype="float16"), r"dtype='float16'.*float32, bfloat16"),
    (dict(batch_norm="none"), r"batch_norm='none'.*train, frozen"),
    (dict(parallel="ddp"), r"parallel='ddp'.*pmap, fsdp"),
    (dict(weight_decay=-0.1), r"weight_decay=-0.1 must be 0 or more"),
    (dict(weight_decay=float("nan")), r"weight_decay=nan must be a finite number"),
    (dict(microbatches=3), r"batch_size=16 .* the 1 devices times 3 microbatches: 18 is"),
    (dict(microbatches=0), r"microbatches=0 must be 1 or more"),
    (dict(steps_per_dispatch=0), r"steps_per_dispatch=0 must be 1 or more"),
    (dict(batch_size=0), r"batch_size=0 must be 1 or more"),
    (dict(log_every=0), r"log_every=0 must be 1 or more"),
]

OF_PRETRAINING = [
    (dict(batch_size=128), r"68 images.*batch_size=128"),
    (dict(total_epochs=1.0), r"one of config.total_steps=\d and config.total_epochs=1.0"),
    (dict(total_steps=0), r"total_steps=0 must be 1 or more"),
    (
        dict(total_steps=None, total_epochs=float("inf")),
        r"epochs=inf must be a finite",
    ),
    (dict(label_smoothing=2.0), r"label_smoothing=2.0 must be below 1"),
    (dict(train="head"), r"train=head keeps .* is an architecture, .* timm/NAME"),
    # Nearest by name, among the architectures first.
    (dict(names=("tiny_resent",)), r"'tiny_resent'.*(?<![/\w])tiny_resnet\b"),
]

XE = dict(objective="xe", learning_rate=0.1, label_smoothing=0.0)

SOFT = dict(temperature=1.0, top_k=None, standardized=False)

KL_DP = dict(objective="kl_dp", learning_rate=0.1, top_k_of="target") | SOFT

MUTUAL = (
    dict(learning_rate=0.1)
    | SOFT
    | dict(objective="mutual", detach_teacher=True, label_smoothing=0.0)
)

CD = XE | dict(objective="cd", weight=10.0, gamma=0.1)

OF_TRANSFER = [
    (dict(student="glyphs/tiny_vitt"), r"'glyphs/tiny_vitt'.*glyphs/tiny_vit\b"),
    (dict(teachers=("glyphs/tiny_mlpp",)), r"'glyphs/tiny_mlpp'.*glyphs/tiny_mlp\b"),
    (dict(teachers=("tiny_vit",)), r"'tiny_vit' is an architecture"),
    (dict(teachers=()), r"teachers has 0 entries"),
    (dict(seeds=()), r"seeds has 0 entries"),
    (dict(objectives={}), r"objectives has 0 entries"),
    (
        dict(objectives={"a": dict(objective="kd", learning_rate=1.0)}),
        r"'kd' is not known.*kl_dp",
    ),
    (
        dict(objectives={"a": dict(objective="kl", learning_rate=1.0)}),
        r"lacks .*'objectives.a.temperature'",
    ),
    (dict(objectives={"a": dict(objective="kl")}), r"lacks .*'objectives.a.learning_rate'"),
    (
        dict(objectives={"a": dict(learning_rate=1.0)}),
        r"lacks .*'objectives.a.objective'",
    ),
    (dict(objectives={"a/b": XE}), r"'a/b' names files"),
    (dict(objectives={"a": XE | dict(learning_rate=0.0)}), r"learning_rate=0.0 must be above 0"),
    (
        dict(objectives={"a": XE | dict(label_smoothing=2)}),
        r"a.label_smoothing=2 must be below 1",
    ),
    (dict(objectives={"a": KL_DP | dict(top_k=1)}), r"objectives.a.top_k=1 must be 2 or more"),
    (dict(objectives={"a": MUTUAL}), r"'single' does not support .*'mutual'.*takes xe, self, "),
    (dict(strategy="mutual"), r"'mutual' does not support objective 'kl_dp': it takes mutual"),
    (dict(strategy="mutual", objectives={"a": MUTUAL}, calibrate=True), r"no frozen models"),
    (dict(strategy="mutual", objectives={"a": MUTUAL}, targets="stored"), r"no frozen models"),
    (dict(seeds=(1, 2**32 + 1)), r"seeds.1=4294967297 must be below 4294967296"),
    (dict(objectives={"a": CD}, targets="stored"), r"'cd' compares features, .* live"),
    (dict(mcl={"kl": dict(tau=0.9, every=1)}), r"mcl='kl' is not known. Known: kl_dp"),
    (dict(mcl={"kl_dp": dict(tau=0.9)}), r"lacks the field 'mcl.kl_dp.every'"),
    (dict(mcl={"kl_dp": dict(tau=1.0, every=1)}), r"mcl.kl_dp.tau=1.0 must be below 1"),
    (dict(mcl={"kl_dp": dict(tau=0.5, every=0)}), r"mcl.kl_dp.every=0 must be 1 or more"),
    (dict(strategy="both"), r"strategy='both'.*single, parallel, sequential, soup, mutual"),
    (dict(order="up"), r"order='up'.*ascending, descending, given, random"),
    (dict(targets="cached"), r"targets='cached'.*live, stored"),
]


def ids(cases):
    return ["-".join(f"{k}={v}" for k, v in fields.items())[:40] for fields, _ in cases]


@pytest.mark.parametrize(
    ("fields", "message"), OF_BOTH + OF_PRETRAINING, ids=ids(OF_BOTH + OF_PRETRAINING)
)
def test_pretraining_refuses(fields, message, images, refused):
    refused(pretrain.run, pretraining(images, **fields), message)


@pytest.mark.parametrize(
    ("fields", "message"), OF_BOTH + OF_TRANSFER, ids=ids(OF_BOTH + OF_TRANSFER)
)
def test_transfer_refuses(fields, message, images, zoo, refused):
    config = transferring(images, zoo[0], zoo[1:])
    config.unlock()
    for name, value in fields.items():
        setattr(config, name, value)
    refused(transfer.run, config, message)


def test_a_store_may_not_learn(images, zoo, refused):
    message = "student='store:S': a store has no weights"
    refused(transfer.run, transferring(images, "store:S", zoo[1:]), message)


def test_workdirs_are_not_among_the_images(images, zoo, tmp_path):
    """Their pictures would be a class of the next run."""
    folder = shutil.copytree(images, tmp_path / "images")
    inside = next(path for path in folder.iterdir() if path.is_dir()) / "run"
    for config, run in (
        (pretraining(folder), pretrain.run),
        (transferring(folder, zoo[0], zoo[1:]), transfer.run),
        (studying(folder, zoo[:1], zoo[1:]), study.run),
    ):
        with pytest.raises(ValueError, match="lies among the images of"):
            run(config, inside)
    assert not inside.exists()


def test_workdirs_do_not_hold_what_is_used(images, zoo, tmp_path):
    """--overwrite would delete it, and the same command could not be run again."""
    held = tmp_path / "W" / "models" / "teacher"
    shutil.copytree(zoo[0], held)
    for config, run in (
        (pretraining(images, names=(str(held),)), pretrain.run),
        (transferring(images, zoo[1], [held]), transfer.run),
        (transferring(images, tmp_path / "W", zoo[1:]), transfer.run),
        (studying(images, zoo[1:2], (str(held),)), study.run),
    ):
        with pytest.raises(ValueError, match=r"lies in --workdir=.*: use another --workdir\."):
            run(config, tmp_path / "W", overwrite=True)
    assert tree(held) == tree(Path(zoo[0]))


def test_student_may_not_teach_itself(images, zoo, refused):
    refused(transfer.run, transferring(images, zoo[0], [zoo[1], zoo[0]]), "must differ")
    refused(transfer.run, transferring(images, zoo[0], [zoo[1], zoo[1]]), "must differ")


def test_other_spelling_of_the_student_is_the_student(images, zoo, refused):
    refused(transfer.run, transferring(images, zoo[0], [f"{zoo[0]}/"]), "must differ")


def test_batch_has_to_divide_by_the_devices(images, zoo, refused, monkeypatch):
    monkeypatch.setattr(parallel.jax, "device_count", lambda: 3)
    message = r"batch_size=16 is not divisible by the 3 devices: 18"
    refused(pretrain.run, pretraining(images), message)
    refused(transfer.run, transferring(images, zoo[0], zoo[1:]), message)
    config = pretraining(images, batch_size=18)
    refused(pretrain.run, config, r"eval_batch_size=16 is not divisible")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (
            CLASSES[:3],
            r"has 4 classes, 3 of them those of .*: a student must have exactly the classes",
        ),
        (
            (*CLASSES[:3], "waves"),
            r"lacks 1 of the 4 classes of .*: .waves.\. config.classes=shared",
        ),
    ],
    ids=["fewer", "others"],
)
def test_models_have_to_know_the_classes(classes, message, zoo, refused, tmp_path):
    folder = make_images(tmp_path / "others", classes)
    refused(transfer.run, transferring(folder, zoo[0], zoo[1:]), message)
    refused(pretrain.run, pretraining(folder, names=(zoo[0],), head="keep"), message)


def test_images_have_to_decode(zoo, refused, tmp_path):
    folder = make_images(tmp_path / "images")
    bad = folder / "columns" / "07.png"
    bad.write_bytes(bad.read_bytes()[:60])
    refused(pretrain.run, pretraining(folder), r"columns/07.png does not decode")
    refused(transfer.run, transferring(folder, zoo[0], zoo[1:]), r"columns/07.png does not decode")


def test_weights_have_to_fit(images, zoo, refused, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(zoo[2], folder)
    config = transferring(images, zoo[0], [folder])
    entries = safetensors_numpy.load_file(folder / weights.WEIGHTS)
    entries["params/head/bias"] = np.zeros(9, np.float32)
    entries["params/extra"] = entries.pop("params/fc_0/bias")
    safetensors_numpy.save_file(entries, folder / weights.WEIGHTS)
    message = r"(?s)missing params/fc_0/bias.*unexpected params/extra.*misshapen params/head/bias"
    refused(transfer.run, config, message)
    (folder / weights.WEIGHTS).write_bytes(b"not a model")
    refused(transfer.run, config, "not a whole safetensors file")


def test_workdir_has_to_be_a_folder(images, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for workdir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=f"{workdir}' cannot be used"):
            pretrain.run(pretraining(images), workdir)
    assert (tmp_path / "file").read_text() == "in the way"
