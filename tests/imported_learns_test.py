"""An imported student improves by an imported teacher, where torch is not; .ci/full has it.

Both are networks of the embedded zoo in PyTorch, with the zoo's weights, as torch exported them.
"""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import ktjax
from ktjax import models
from ktjax.models.checkpoints import entries, weights

pytestmark = pytest.mark.full
# torch's modules -> ktjax's.
MLP = {"1": "fc_0", "2": "norm_0", "4": "fc_1", "5": "norm_1", "7": "head"}
MIXER = {"0": "stem", "5.norm": "norm", "5.head": "head"}
for i in range(3):
    block = {"norm1": "norm1", "norm2": "norm2", "tokens.0": "mlp_tokens/fc1"}
    block |= {"tokens.2": "mlp_tokens/fc2", "channels.0": "mlp_channels/fc1"}
    block |= {"channels.2": "mlp_channels/fc2"}
    MIXER |= {f"{2 + i}.{theirs}": f"blocks_{i}/{ours}" for theirs, ours in block.items()}
RUN = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "torchvision"):
            raise ModuleNotFoundError(f"{name} is not there")

sys.meta_path.insert(0, Absent())
from ktjax.configs import quickstart
from ktjax.jobs import transfer
folder, student, teacher = sys.argv[1:]
config = quickstart.get_config()
with config.unlocked():
    config.objectives = {"kl_dp": config.objectives.kl_dp}
    config.controls = {}
config.student, config.teachers, config.targets = student, (teacher,), "live"
transfer.run(config, folder)
"""


def in_torch(name, layers):
    """The zoo's network in PyTorch, with its weights."""
    torch = pytest.importorskip("torch")
    from ktjax.bench.in_torch import tiny

    model = models.load(f"glyphs/{name}")
    size = model.input.size[0]
    module = tiny.NETWORKS[name](len(model.classes), size=size)
    found = entries.read(models.ZOO / name / weights.WEIGHTS)
    state = {}
    for theirs, ours in layers.items():
        if f"params/{ours}/kernel" not in found:
            state[f"{theirs}.weight"] = found[f"params/{ours}/scale"]
        else:
            kernel = found[f"params/{ours}/kernel"]
            if kernel.ndim == 2 and len(kernel) == 3 * size * size:  # torch has channels first
                kernel = kernel.reshape(size, size, 3, -1).transpose(2, 0, 1, 3)
                kernel = kernel.reshape(3 * size * size, -1)
            axes = (1, 0) if kernel.ndim == 2 else (3, 2, 0, 1)
            state[f"{theirs}.weight"] = kernel.transpose(axes)
        state[f"{theirs}.bias"] = found[f"params/{ours}/bias"]
    module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
    return module.eval(), model


def test_an_imported_student_improves(tmp_path):
    import torch

    modules = {}
    for name, layers in (("tiny_mlp", MLP), ("tiny_mixer", MIXER)):
        modules[name], model = in_torch(name, layers)
        ktjax.import_torch(
            modules[name],
            tmp_path / name,
            size=model.input.size,
            mean=model.input.mean,
            std=model.input.std,
            interpolation=model.input.interpolation,
            classes=model.classes,
        )
    names = [str(tmp_path / name) for name in modules]
    subprocess.run([sys.executable, "-c", RUN, str(tmp_path / "run"), *names], check=True)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (row,) = results["runs"]
    assert row["accuracy_before"] == pytest.approx(61.53, abs=0.05)  # as README has it of the zoo's
    assert row["accuracy_after"] > row["accuracy_before"] + 0.1
    # What is exported is torch's state_dict.
    folder = tmp_path / "run" / "students" / row["run"]
    state = safetensors_numpy.load_file(folder / weights.WEIGHTS)
    modules["tiny_mlp"].load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
    student = ktjax.load_model(str(folder))
    x = np.random.default_rng(0).standard_normal((4, *student.input.size, 3)).astype(np.float32)
    output, _ = student.forward(student.variables, x, train=False, rngs=None, freeze_stats=False)
    with torch.no_grad():
        expected = modules["tiny_mlp"](torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(output.logits, expected, atol=1e-3)
    print(f"{row['accuracy_before']:.2f} -> {row['accuracy_after']:.2f}")
