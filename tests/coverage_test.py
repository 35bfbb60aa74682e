"""How much of timm is there, by its files."""

import pytest

from ktjax import models
from ktjax.models import __main__ as command
from ktjax.models import coverage
from ktjax.models.checkpoints import catalogue, hf_kinds

NATIVE = {
    "architectures": {
        "a1": {"family": "a", "checkpoints": ["x", "y"]},
        "a2": {"family": "a", "checkpoints": []},
    }
}
FILES = {
    "a": {"checkpoints": 3},
    "b": {"checkpoints": 5, "model": "b_s", "logits": 2e-6, "gradients": 1e-5},
    "c": {"checkpoints": 7, "model": "c_s", "refused": "no operation for foo"},
    "d": {"checkpoints": 0},
    "e": {"checkpoints": 1, "model": "e_s"},
}


def test_files_are_counted_once():
    found = coverage.rows(NATIVE, {"files": FILES}, {"a"})
    assert [row[:5] for row in found] == [
        *(("a", 2, 0, 0, 1), ("b", 0, 5, 0, 0), ("c", 0, 0, 7, 0)),
        *(("d", 0, 0, 0, 0), ("e", 0, 0, 0, 1)),
    ]
    said = {row.file: row.said for row in found}
    assert said["b"] == "b_s: logits 2e-06, gradients 1e-05"
    assert said["c"] == "no operation for foo"
    assert said["d"] == "no model with a head"
    assert said["e"] == "e_s: not compared yet"
    text = coverage.text(found, 16, {"timm": "1"})
    assert text.endswith(
        "Of 16 ImageNet-1k checkpoints: 2 native (12.5 %), 5 of files whose smallest model was "
        "imported and compared (31.2 %), 7 refused (43.8 %), 2 untried (12.5 %); timm 1."
    )


# Where training mode is further from torch than 1e-3, and torch is not from its own float64: the
# variance of a batch is E[x^2] - E[x]^2 in float32, as one message between devices allows, and
# torch's is of two passes. In float64 gradients of evaluation agree to 6e-8.
KNOWN = {"hardcorenas": ["step"]}


@pytest.mark.parametrize(
    ("entry", "beyond"),
    [
        ({"logits": 1e-4, "gradients": 1e-3}, []),
        ({"logits": 2e-4, "gradients": 1e-3}, ["logits"]),
        ({"logits": 2e-4, "torch": {"logits": 1e-4}}, []),  # torch is no nearer to its float64
        ({"logits": 2e-6, "step": 0.5, "torch": {"step": 0.1}}, ["step"]),
    ],
)
def test_what_torch_itself_does_not_reach_is_no_fault(entry, beyond):
    assert coverage.excesses(entry) == beyond


def test_the_table_is_of_all_checkpoints_and_without_faults(capsys):
    files = catalogue.IMPORTED["files"]
    total = sum(entry["checkpoints"] for entry in files.values())
    assert total == catalogue.TIMM["checkpoints"]
    assert catalogue.IMPORTED["timm"] == catalogue.TIMM["timm"]
    assert set(models.FAMILIES) <= set(files)
    beyond = {file: coverage.excesses(entry) for file, entry in files.items()}
    assert {file: found for file, found in beyond.items() if found} == KNOWN
    command.main(["coverage"])
    printed = capsys.readouterr().out
    assert f"Of {total:,} ImageNet-1k checkpoints: 648 native" in printed
    assert "classes that classify an image: 10 native, " in printed


def test_transformers_classes_are_there_and_agree():
    files = catalogue.TRANSFORMERS["files"]
    beyond = {name: coverage.excesses(entry) for name, entry in files.items()}
    assert not {name: found for name, found in beyond.items() if found}
    assert set(hf_kinds.KINDS) <= set(files)
    # Those that the first version refused.
    for name in ("Swinv2", "Dinov2WithRegisters", "ViTMSN", "Data2VecVision"):
        assert files[f"{name}ForImageClassification"]["logits"] < 1e-4
    assert files["ResNetForImageClassification-downsample_in_bottleneck"]["logits"] < 1e-4
    # What else is needed, natten, has no wheel for a CPU.
    refused = {name for name, entry in files.items() if "refused" in entry}
    assert refused == {"DinatForImageClassification"}


def test_classes_of_transformers_are_counted_once():
    compared = {
        "AForImageClassification": {"logits": 2e-6, "gradients": 1e-5},
        "BForImageClassification": {"logits": 2e-6},
        "BForImageClassification-option": {"logits": 3e-6},
        "CForImageClassification": {"refused": "needs natten"},
        "DForImageClassification": {"apart": "reads text"},
    }
    text = coverage.text_of_transformers(
        {"files": compared}, {"AForImageClassification"}, {"transformers": "5"}
    )
    lines = {line.split()[0]: line.split()[1:] for line in text.splitlines()[1:-2]}
    assert lines["AForImageClassification"][:3] == ["native", "logits", "2e-06,"]
    assert lines["BForImageClassification-option"][0] == "imported"
    assert lines["DForImageClassification"] == ["apart", "reads", "text"]
    assert text.endswith(
        "Of 3 classes that classify an image: 1 native, 1 imported, 1 refused; transformers 5."
    )
