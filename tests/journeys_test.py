"""What README shows, run as it is printed: photographs to a student in timm, and from Python."""

import re
import shlex

import jax.numpy as jnp
import numpy as np
import pytest
import small_jobs
from PIL import Image

import ktjax
from ktjax import inference, models
from ktjax.models.checkpoints import weights

pytestmark = pytest.mark.full
README = (small_jobs.ROOT / "README.md").read_text(encoding="utf-8")
COLORS = {"cup": (200, 60, 60), "leaf": (60, 180, 60), "sky": (70, 90, 210)}
# The models that README takes from the hub, and small ones of timm's that stand in for them.
FROM_THE_HUB = {
    "timm/resnet50.a1_in1k": "test_vit",
    "timm/vit_small_patch16_224.augreg_in21k_ft_in1k": "test_vit2",
}
SHORT = ["--config.batch_size=16", "--config.eval_batch_size=16", "--config.image_size=64"]


def block(containing):
    """The lines of the one block of code in README that holds this."""
    found = [
        text for text in re.findall(r"```\w*\n(.*?)```", README, re.DOTALL) if containing in text
    ]
    assert len(found) == 1, containing
    return found[0]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """JPEGs of several sizes, one directory per class."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for name, color in COLORS.items():
        (folder / name).mkdir()
        for i in range(30):
            size = rng.integers(90, 140, 2)
            pixels = rng.normal(color, 55, (*size, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg", quality=90)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folders as timm writes them, by the names that README has."""
    root = tmp_path_factory.mktemp("checkpoints")
    for architecture in FROM_THE_HUB.values():
        model = models.create(architecture, classes=models.classes.numbered(1000), seed=0)
        weights.export(model, root / architecture, format="timm")
    return {name: root / architecture for name, architecture in FROM_THE_HUB.items()}


@pytest.fixture(scope="module")
def journey(photographs, checkpoints, cached, tmp_path_factory):
    """Where README's commands put things; and what they print."""
    root, printed = tmp_path_factory.mktemp("journey"), []
    Image.open(photographs / "leaf" / "0.jpg").save(root / "new.jpg")
    for line in block("config=pretrain:model=timm").splitlines():
        line = line.replace("/tmp/", f"{root}/").replace("PHOTOS", str(photographs))
        for name, folder in checkpoints.items():
            line = line.replace(name, str(folder))
        program, *words = shlex.split(line.replace(" new.jpg", f" {root}/new.jpg"))
        assert program == "ktjax"
        if words[0] != "predict":
            words += [*SHORT, "--config.total_epochs=None"]
            few = ["--config.total_steps=6", "--config.learning_rates=(0.01,1.0)"]
            words += few if "transfer:" in line else ["--config.total_steps=40"]
        done = small_jobs.launch(*words, timeout=900, **cached)
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    return root, printed


def test_own_photographs(journey):
    root, printed = journey
    for name in ("a", "b"):
        assert small_jobs.read(root / name)["runs"][0]["accuracy_after"] > 50
    results = small_jobs.read(root / "ab")
    assert results["config"]["augment"] == "default"  # the paper's views
    assert {run["objective"] for run in results["runs"]} == {"kl_dp", "kl_pool"}
    assert all(len(run["rates"]) == 2 for run in results["runs"])  # tried for each
    announced = "2 transfers and 4 controls of 6 steps each, at up to 2 learning rates"
    assert announced in printed[2]
    assert "naming the most frequent class always: 33.3 %" in " ".join(printed[2].split())
    first, *classes = printed[3].splitlines()
    assert first.endswith("new.jpg")
    assert {line.split(" %  ")[1] for line in classes} <= set(COLORS)


def test_the_student_in_timm(journey, tmp_path):
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    root, _ = journey
    student = ktjax.load_model(root / "ab" / "students" / "kl_dp-b-1")
    ktjax.export_model(student, tmp_path / "export", format="timm")
    module = timm.create_model(f"local-dir:{tmp_path / 'export'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=module))
    image = Image.open(root / "new.jpg")
    with torch.no_grad():
        theirs = module(transform(image)[None]).softmax(1)[0].numpy()
    (ours,) = inference.predict(student, image, top=3)
    assert module.pretrained_cfg["label_names"] == list(student.classes)
    for label, probability in ours:
        assert probability == pytest.approx(theirs[student.classes.index(label)], abs=1e-4)


@pytest.mark.usefixtures("compile_once")  # it restores what keep_compiled changes
def test_from_python(tmp_path, monkeypatch):
    code = block('\nconfig = transfer.get_config("student=glyphs/tiny_resnet,')
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    images = jnp.asarray(rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8))
    namespace = {"image_BxHxWx3": images}
    short = code.replace('teachers=glyphs/tiny_vit")', 'teachers=glyphs/tiny_vit,runlocal")')
    assert "runlocal" in short
    exec(compile(short.replace("/tmp/", f"{tmp_path}/"), "README.md", "exec"), namespace)
    assert namespace["output"].logits.shape == (2, 100)
    assert namespace["results"]["runs"]
