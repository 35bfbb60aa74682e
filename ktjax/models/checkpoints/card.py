"""README.md of an exported model: a model card, as the Hugging Face hub reads it.

Names come from users and files: the YAML is written by its library, the text is escaped, and a path
that is not a name on the hub is shortened to its last part.
"""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import huggingface_hub

from ktjax import files, paths, spelling
from ktjax.classifier import Classifier
from ktjax.models.checkpoints import repositories
from ktjax.models.checkpoints.catalogue import TIMM

README = "README.md"
_MARK = "<!-- written by ktjax: delete this line, and the file is yours -->"
# How a card says that the model is loaded, up to its name.
_PREDICT, _CREATE = 'ktjax.predict("{}"', 'timm.create_model("{}"'
_LIBRARIES = {"ktjax": "ktjax", "timm": "timm", "hf": "transformers"}
_DATASETS = {"imagenet2012": "ILSVRC/imagenet-1k"}  # what the hub calls them
_ZOO = "glyphs/"
# A word with a slash in a flag's value, with the `hf:`, `folder:` or `gs:/` before it.
_WORD = r"[^\s/,+=:'\"()\[\]]"
_PATH = re.compile(rf"(?:[\w-]+:/?)?{_WORD}*(?:/{_WORD}+)+")


class Training(NamedTuple):
    """How a model was trained from another, and how good both are; accuracies in percent."""

    student: str  # the initial student
    teachers: tuple[str, ...]
    data: str
    images: int  # validation images
    before: float
    after: float
    delta_se: float
    command: str | None  # None: it was called from Python
    abstained: bool = False  # nothing better was found: it is the student as it was


def command(words: Sequence[str] | None) -> str | None:
    """The command line with the same config and fields; paths are shortened to their last part.

    Args:
      words: the command line without the program; None: there was none.
    """
    if words is None:
        return None
    said, rest = [], iter(words)
    for word in rest:
        flag, has_value, value = word.lstrip("-").partition("=")
        if word.startswith("-") and re.fullmatch(r"config(\.[\w.]+)?", flag):
            value = " ".join((value if has_value else next(rest, "")).split())
            said.append(f"--{flag}={_PATH.sub(_without_folders, value)}")
    return shlex.join(["ktjax", *said, "--workdir=FOLDER"])


def _without_folders(path: re.Match) -> str:
    is_config = path.start() == 0 and path[0].startswith("configs/")
    return path[0] if is_config or path[0].replace("/", "").isdigit() else told(path[0])


def told(name: str) -> str:
    """The public name of a model or data set: a name, or the last part of a path."""
    kind, colon, path = name.partition(":")
    if kind in ("folder", "store") and colon:
        return f"{kind}:{files.last_part(path)}"
    known = name.startswith(_ZOO) or "/" not in name or repositories.of(name) is not None
    return name if known else files.last_part(name)


def write(folder: Path, classifier: Classifier, *, format: str, training: Training | None) -> None:
    """Writes the card, unless there is a README.md that ktjax did not write."""
    path = folder / README
    if path.exists() and not _is_ours(path.read_bytes()):
        return
    files.write_whole(path, text(classifier, format=format, training=training))


def of_repository(content: bytes, repository: str) -> bytes:
    """The card that says how to load the model from the hub; one that is not ktjax's, as it is."""
    if not _is_ours(content):
        return content
    here_and_there = {
        _PREDICT.format("FOLDER"): _PREDICT.format(f"hf:{repository}"),
        _CREATE.format("local-dir:FOLDER"): _CREATE.format(f"hf-hub:{repository}"),
    }
    for here, there in here_and_there.items():
        content = content.replace(here.encode(), there.encode())
    return content


def _is_ours(content: bytes) -> bool:
    return _MARK.encode() in content


def text(classifier: Classifier, *, format: str, training: Training | None) -> str:
    """The card of a model exported in a format, trained or unchanged."""
    if format == "timm" and classifier.architecture not in TIMM["architectures"]:
        format = "ktjax"  # an imported module, with names of its own: timm may not load it
    name = told(classifier.name) if training is None else told(training.student)
    base = _repository(classifier.name if training is None else training.student)
    header = huggingface_hub.ModelCardData(
        base_model=base,
        library_name=_LIBRARIES[format],
        license=_license(classifier.name if training is None else training.student),
        pipeline_tag="image-classification",
        tags=["image-classification", "ktjax"],
        **_measured(f"{classifier.architecture}, from {name}", training),
    )
    lines = ["---", header.to_yaml(), "---", "", _MARK, ""]
    lines += [f"# {_escaped(classifier.architecture)}, from {_escaped(name)}", ""]
    if training is not None:
        lines += _story(training)
    size = " x ".join(map(str, classifier.input.size))
    lines += [
        f"{classifier.num_parameters():,} parameters, {len(classifier.classes):,} classes, images "
        f"of {size} pixels. ktjax reads and normalizes the images:",
        "",
        "```python",
        "import ktjax",
        "",
        _PREDICT.format("FOLDER") + ', ["photo.jpg"], top=5)  # [[(label, probability), ...]]',
        "```",
    ]
    if format == "timm":
        create = _CREATE.format("local-dir:FOLDER")
        lines += ["", f"`{create}, pretrained=True)` also loads it."]
    return "\n".join(lines) + "\n"


def _story(training: Training) -> list[str]:
    names = [_escaped(told(name)) for name in training.teachers]
    teachers = spelling.listed(names) if names else ""
    taught = f"was taught by {teachers}" if teachers else "was trained without a teacher"
    if training.abstained:
        taught = f"is unchanged: {teachers or 'training alone'} could not be shown to improve it"
    change = training.after - training.before
    return [
        f"{_escaped(told(training.student))} {taught}, on {_escaped(told(training.data))}.",
        "",
        f"| {training.images:,} validation images | accuracy |",
        "|---|---|",
        f"| before | {training.before:.2f} % |",
        f"| after | {training.after:.2f} % |",
        f"| change | {change:+.2f} ± {training.delta_se:.2f} points (standard error) |",
        "",
        "Made with ktjax ([method](https://arxiv.org/abs/2310.17653)) and the settings in",
        "config.json of its workdir" + (":" if training.command else "."),
        *(["", f"    {training.command}"] if training.command else []),
        "",
    ]


def _measured(name: str, training: Training | None) -> dict:
    """The fields of the header with the results and their data set."""
    if training is None:
        return {}
    results = {
        "Accuracy after": ("accuracy", training.after),
        "Accuracy before": ("accuracy", training.before),
        "Standard error of the change": ("standard_error", training.delta_se),
    }
    known = _DATASETS.get(training.data)
    return {
        "datasets": None if known is None else [known],
        "model_name": name,
        "eval_results": [
            huggingface_hub.EvalResult(
                task_type="image-classification",
                dataset_type=known or re.sub(r"\W+", "-", told(training.data)).strip("-"),
                dataset_name=told(training.data),
                metric_type=kind,
                metric_name=metric,
                metric_value=round(value, 4),
            )
            for metric, (kind, value) in results.items()
        ],
    }


def _repository(name: str) -> str | None:
    """A model's name on the hub; None: it is not from there."""
    repository = repositories.of(name)
    return None if repository is None else repositories.split(repository)[0]


def _license(name: str) -> str | None:
    """The license of a model, if it is known without network access."""
    if name.startswith(_ZOO):
        return "apache-2.0"  # they come with this package
    try:
        found = _card_of(name)
        return None if found is None else huggingface_hub.ModelCard.load(found).data.license
    except Exception:  # a card may hold anything, a name too, and training has already succeeded
        return None


def _card_of(name: str) -> str | Path | None:
    """The card of a model in a folder or in the hub's cache, if there is one."""
    repository = repositories.of(name)
    if repository is None:
        folder = paths.of(name)
        return folder / README if (folder / "config.json").exists() else None
    plain, revision = repositories.split(repository)
    found = huggingface_hub.try_to_load_from_cache(plain, README, revision=revision)
    return found if isinstance(found, str) else None


def _escaped(text: str) -> str:
    """Text that Markdown and HTML show as it is, in one line."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text)
