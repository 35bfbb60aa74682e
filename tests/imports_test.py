"""Imports go one way, as design.md has it: read from the source, so that none is overlooked.

Imports inside of functions, and those that only type checkers see, count as well.
"""

import ast
import graphlib
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Who may import whom: a room imports from rooms further down, and from itself. Rooms of one line
# may import one another, without a circle, but for those of APART.
STORIES = [
    {"bench"},
    {"__main__", "main", "launch", "flags"},
    {"jobs", "inference"},
    {"experiment"},
    {"settings"},
    {"targets", "loop", "train", "evaluate", "report", "checkpoint", "writer"},
    {"objectives", "contrastive", "mutual", "pools", "models", "data", "analysis"},
    {"objective", "batches"},  # what the rooms above have in common: a contract each
    {"partition", "losses", "optim", "parallel", "augment", "classifier", "joint"}
    | {
        "config",
        "files",
        "imagenet",
        "mirror",
        "paths",
        "trackers",
        "interruption",
        "peers",
        "progress",
        "spelling",
        "topk",
        "compress",
        "arrays",
        "compiled",
    },
]
APART = {"objectives", "models", "data", "analysis"}
CORE = {
    "train",
    "objectives",
    "contrastive",
    "mutual",
    "pools",
    "targets",
    "evaluate",
    "objective",
    "batches",
} | STORIES[-1]
# What the core takes from its caller: models, data, and all that reads them.
NOT_OF_THE_CORE = {"ktjax.models", "ktjax.data", "huggingface_hub", "transformers", "requests"} | {
    *("urllib", "http", "socket", "PIL", "simplejpeg", "numba", "grain", "array_record"),
    *("tensorflow_datasets", "matplotlib"),
}
# Libraries that have one place.
ONLY_IN = {
    "pydantic": {"ktjax.settings"},
    "orbax": {"ktjax.checkpoint"},
    # Grain reads absl's flags, which nobody has parsed in a notebook: pipeline marks them.
    "absl.flags": {"ktjax.flags", "ktjax.data.pipeline"},
    "torch": {"ktjax.models.imported", "ktjax.bench.in_torch"},
    "ray": {"ktjax.jobs.study.on_ray"},
    "etils": {"ktjax.paths"},
    "fsspec": {"ktjax.paths"},
    "torchvision": set(),
    "timm": {"ktjax.models.imported", "ktjax.bench.in_torch"},
    "tensorflow": set(),
}
# Never at the top of a module; used where they are installed.
SLOW = {"torch", "timm", "tensorflow", "ray"}
# But for what is written in them, and is never imported at the top itself.
SLOW_ROOMS = {"ktjax.bench.in_torch"}
# Parts of a library that have a distribution of their own, of which the library pins the version.
PARTS = {"pydantic_core": "pydantic"}
# Required and not imported: tensorflow-datasets needs it and does not say so.
FOR_OTHERS = {"importlib-resources"}

# What is known to be otherwise: (who, whom) -> why. A line that no longer holds fails, too.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def modules():
    """name -> path of every module of the package."""
    found = {}
    for path in sorted((ROOT / "ktjax").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith("ktjax.configs"):
            found[name] = path
    return found


MODULES = modules()


def imports(path):
    """(module, whether it is imported at the top) of all imports; names are cut off modules."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    within = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("ktjax.") and name not in MODULES:
                name = name.rpartition(".")[0]
            yield name, node not in within


def below(name, roots):
    return any(name == root or name.startswith(f"{root}.") for root in roots)


def room(name):
    if name == "ktjax.targets.__main__":  # a program, which reads configs and data
        return "__main__"
    return name.split(".")[1] if "." in name else name


def story(name):
    return next(i for i, rooms in enumerate(STORIES) if room(name) in rooms)


def is_wrong(who, whom):
    """Whether one module must not import another."""
    if room(who) in CORE and below(whom, NOT_OF_THE_CORE):
        return True
    if any(below(whom, [library]) and not below(who, ONLY_IN[library]) for library in ONLY_IN):
        return True
    if not whom.startswith("ktjax."):  # a library; or the version, which everybody may read
        return False
    return story(whom) < story(who) or (
        room(who) != room(whom) and {room(who), room(whom)} <= APART
    )


def test_every_module_has_a_room():
    rooms = {room(name) for name in MODULES} - {"ktjax"}
    assert rooms <= set().union(*STORIES)


def test_imports_go_one_way():
    found = {
        (who, whom)
        for who, path in MODULES.items()
        for whom, _ in imports(path)
        if who != "ktjax" and is_wrong(who, whom)
    }
    assert found == set(EXCEPTIONS)


def test_no_circle():
    graph = {
        who: {whom for whom, _ in imports(path) if whom in MODULES and whom != "ktjax"}
        for who, path in MODULES.items()
    }
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, with the circle


def length(node):
    """Lines of a function without its docstring."""
    first = node.body[0]
    documented = ast.get_docstring(node) is not None
    doc = first.end_lineno - first.lineno + 1 if documented else 0
    return node.end_lineno - node.lineno + 1 - doc


def test_files_and_functions_are_short():
    found = {}
    for name, path in MODULES.items():
        text = path.read_text(encoding="utf-8")
        found[name] = (text.count("\n"), 400)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found[f"{name}.{node.name}"] = (length(node), 80)
    assert not {name: lines for name, (lines, most) in found.items() if lines > most}


def test_slow_libraries_wait():
    for who, path in MODULES.items():
        slow = set() if below(who, SLOW_ROOMS) else SLOW | SLOW_ROOMS
        for whom, at_top in imports(path):
            assert not (at_top and below(whom, slow)), (who, whom)


def normalized(distribution):
    return re.sub(r"[-_.]+", "-", distribution).lower()


def required():
    """Distributions that setup.py requires, but for those of extras."""
    tree = ast.parse((ROOT / "setup.py").read_text(encoding="utf-8"))
    (listed,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "install_requires"
    )
    return {normalized(re.match(r"[\w.-]+", line)[0]) for line in listed}


def test_setup_requires_what_is_imported():
    """Not what comes along with something else today; and nothing that nobody imports."""
    configs = (ROOT / "configs").rglob("*.py")
    imported = {
        whom.partition(".")[0]
        for path in (*MODULES.values(), *configs)
        for whom, _ in imports(path)
    }
    imported -= {"ktjax", *sys.stdlib_module_names, *SLOW}
    known = importlib.metadata.packages_distributions()
    found = set()
    for name in imported:
        distributions = {normalized(d) for d in known[PARTS.get(name, name)]}
        assert distributions & required(), f"setup.py lacks {name}: {distributions}"
        found |= distributions
    assert required() - found == FOR_OTHERS


def test_the_check_sees_what_is_wrong(tmp_path):
    path = tmp_path / "some.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from ktjax.data.pipeline import Split\n"
        "def f():\n    from ktjax import models\n    import orbax.checkpoint\n"
        "    from absl import flags\n"
    )
    found = dict(imports(path))
    assert found["ktjax.data.pipeline"] and not found["ktjax.models"]
    assert {whom for whom in found if is_wrong("ktjax.train", whom)} == {
        *("ktjax.data.pipeline", "ktjax.models", "orbax.checkpoint", "absl.flags")
    }
    assert is_wrong("ktjax.models", "ktjax.data") and is_wrong("ktjax.data", "ktjax.jobs.pretrain")
    assert is_wrong("ktjax.jobs.pretrain", "ktjax.flags")
    assert not is_wrong("ktjax.checkpoint", "orbax.checkpoint")
    assert not is_wrong("ktjax.train", "ktjax.objectives")


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("ktjax.train", ["ktjax.models", *sorted(NOT_OF_THE_CORE)]),
        (
            "ktjax, ktjax.launch, ktjax.jobs",
            [
                *("flax", "transformers", "tensorflow_datasets", "matplotlib", "numba", "orbax"),
                *("grain", "scipy", "PIL", "optax"),
            ],
        ),
        ("ktjax.main", ["jax", "numpy"]),
        ("ktjax.data.pipeline", ["jax", "tensorflow_datasets", "matplotlib", "numba", "grain"]),
        ("ktjax.augment", ["ktjax.data"]),
        # What is needed after training, or to ask the hub.
        ("ktjax.jobs.transfer, ktjax.jobs.study", ["matplotlib", "huggingface_hub.errors"]),
    ],
)
def test_importing_is_quick(python, imported, absent):
    # What takes long is asked for by name: seconds would depend on the machine.
    own = [name for name in absent if name not in ("urllib", "http", "socket")]  # Python's, in jax
    code = f"import sys, {imported}; print(*(m for m in {own} if m in sys.modules), '.')"
    assert python(code) == ["."]
