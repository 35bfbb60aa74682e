"""Model cards of exported folders, and the way to the hub: against a local stand-in of its API."""

import base64
import dataclasses
import hashlib
import http.server
import json
import shutil
import threading
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import numpy as np
import pytest
from controls_test import make_run
from goldens import rule
from safetensors import numpy as safetensors_numpy

import ktjax
from ktjax import models
from ktjax.experiment import exports
from ktjax.models.checkpoints import card, entries, hub, weights


@pytest.fixture(scope="module")
def model():
    return models.load("glyphs/tiny_mlp_narrow")


def training(**fields):
    made = dict(
        student="timm/a.b", teachers=("x<script>|y", "/home/me/secret/t_1"), data="folder:/me/p"
    )
    measured = dict(images=1234, before=60.0, after=61.25, delta_se=0.5, command="ktjax --config=x")
    return card.Training(**made | measured | fields)


def read(text):
    return huggingface_hub.ModelCard(text)


def test_the_header_is_what_the_hub_reads(model):
    timms = dataclasses.replace(model, architecture="resnet18")
    data = read(card.text(timms, format="timm", training=training())).data
    assert (data.base_model, data.library_name) == ("timm/a.b", "timm")
    found = {one.metric_name: (one.metric_type, one.metric_value) for one in data.eval_results}
    assert found == {
        "Accuracy after": ("accuracy", 61.25),
        "Accuracy before": ("accuracy", 60.0),
        "Standard error of the change": ("standard_error", 0.5),
    }
    assert {one.dataset_name for one in data.eval_results} == {"folder:p"}
    assert data.datasets is None and data.license is None
    data = read(card.text(model, format="ktjax", training=training(data="imagenet2012"))).data
    assert data.datasets == ["ILSVRC/imagenet-1k"]


def test_a_student_that_is_as_it_was_was_not_taught(model):
    text = card.text(model, format="ktjax", training=training(abstained=True))
    assert "is unchanged: x" in text and "could not be shown to improve it, on folder:p." in text
    assert "was taught by" not in text


def test_what_timm_does_not_load_is_not_said_to_be_timms(model):
    """Imported modules of torchvision's, say, have their own names."""
    for architecture, timms in (("torch:MobileNetV3", False), ("resnet18", True)):
        imported = dataclasses.replace(model, architecture=architecture)
        text = card.text(imported, format="timm", training=None)
        assert ("timm.create_model" in text) == timms
        assert read(text).data.library_name == ("timm" if timms else "ktjax")


def test_the_text_is_escaped_and_tells_no_paths(model):
    named = training(student="hf:me/evil", data="tfds:a\n---\nlicense: mit # *b*")
    text = card.text(model, format="ktjax", training=named)
    assert read(text).data.license is None
    body = text.split("---\n", 2)[2] if text.count("---\n") == 2 else text.partition("<!--")[2]
    assert "<script>" not in text and r"x&lt;script&gt;\|y and t\_1" in body
    assert "/home" not in text and "secret" not in text
    assert r"tfds:a --- license: mit \# \*b\*" in body
    assert "| change | +1.25 ± 0.50 points (standard error) |" in text
    assert "    ktjax --config=x\n" in text


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--config=scarce", "--workdir=/home/me/w", "--config.seeds=(1, 2)"],
            "ktjax --config=scarce '--config.seeds=(1, 2)' --workdir=FOLDER",
        ),
        (
            ["--config=configs/paper/table1.py:student=/me/a/m,teachers=timm/t+hf:x/y"],
            "ktjax --config=configs/paper/table1.py:student=m,teachers=timm/t+hf:x/y "
            "--workdir=FOLDER",
        ),
        (
            ["--config", "/me/my.py:data=folder:/me/p", "--config.shard=1/4", "--workdir", "/w"],
            "ktjax --config=my.py:data=folder:p --config.shard=1/4 --workdir=FOLDER",
        ),
        (
            ["--config=transfer:student=hf-hub:me/s@v2,teachers=timm/me/t+hf://me/u"],
            "ktjax --config=transfer:student=hf-hub:me/s@v2,teachers=timm/me/t+hf://me/u "
            "--workdir=FOLDER",
        ),
        (["--config=x:a;rm -rf"], "ktjax '--config=x:a;rm -rf' --workdir=FOLDER"),
        (
            ["--config=x", "--config.store=gs://me/s"],
            "ktjax --config=x --config.store=s --workdir=FOLDER",
        ),
        (None, None),
    ],
)
def test_command_is_the_one_that_was_given(words, expected):
    assert card.command(words) == expected


def test_a_call_from_python_has_no_command(model):
    text = card.text(model, format="ktjax", training=training(command=None))
    assert "config.json of its workdir.\n\n" in text and "--workdir" not in text


def test_license_is_the_base_models(model, tmp_path):
    assert read(card.text(model, format="ktjax", training=None)).data.license == "apache-2.0"
    weights.export(model, tmp_path)
    known = training(student=str(tmp_path))
    assert read(card.text(model, format="ktjax", training=known)).data.license == "apache-2.0"
    (tmp_path / "README.md").write_text("no card at all")
    assert read(card.text(model, format="ktjax", training=known)).data.license is None


@pytest.mark.parametrize("name", ["hf:a b//c@", "hf:../x", "ftp://me/x"])
def test_no_name_keeps_a_model_from_its_export(model, name):
    text = card.text(model, format="ktjax", training=training(student=name))
    assert read(text).data.license is None


def test_a_readme_of_others_stays(model, tmp_path):
    weights.export(model, tmp_path)
    first = (tmp_path / "README.md").read_text()
    weights.export(model, tmp_path, training=training())
    assert (tmp_path / "README.md").read_text() != first  # it is ours
    for theirs in (b"mine", b"\xe9"):  # in any encoding
        (tmp_path / "README.md").write_bytes(theirs)
        weights.export(model, tmp_path)
        assert (tmp_path / "README.md").read_bytes() == theirs


class Hub(http.server.BaseHTTPRequestHandler):
    """What create_repo, create_commit and hf_hub_download ask of huggingface.co."""

    repositories: ClassVar = {}
    commit = "0" * 40

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization', 'me')}/{asked['name']}"
            self.repositories.setdefault(name, {})
            self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            asked = json.loads(body)["files"]
            told = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
            ]
            self.answer({"files": told})
        elif self.path.endswith("/commit/main"):
            name = self.path.removeprefix("/api/models/").removesuffix("/commit/main")
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.repositories[name][line["value"]["path"]] = content
            self.answer(
                {
                    "commitUrl": f"http://{self.headers['Host']}/{name}/commit/{self.commit}",
                    "commitOid": self.commit,
                }
            )

    def do_GET(self):
        name, _, path = self.path[1:].partition("/resolve/main/")
        content = self.repositories.get(name, {}).get(path)
        if content is None:
            self.answer(b"", 404, X_Error_Code="EntryNotFound", X_Repo_Commit=self.commit)
            return
        etag = hashlib.sha256(content).hexdigest()
        self.answer(content, ETag=f'"{etag}"', X_Repo_Commit=self.commit)

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def endpoint(monkeypatch, tmp_path):
    """huggingface.co, here."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    api = huggingface_hub.HfApi
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: api(address, token=token))
    download = huggingface_hub.hf_hub_download

    def from_here(repository, file, revision=None):
        return download(repository, file, endpoint=address, cache_dir=tmp_path / "hub")

    monkeypatch.setattr(hub.huggingface_hub, "hf_hub_download", from_here)
    yield address
    server.shutdown()
    server.server_close()


def test_a_card_names_the_teachers_of_stages_that_did_not_abstain(model, tmp_path):
    def card_of(teachers, stages, abstained=False):
        known = dict(accuracy_before=60.0, accuracy_after=61.0)
        stages = [make_run("kl", 1.0, teachers=(t,), abstained=a) for t, a in stages]
        row = make_run("kl", 1.0, teachers=teachers, stages=stages, abstained=abstained, **known)
        exports.write(model, tmp_path / "out", row, data="glyphs", validation=range(4))
        return (tmp_path / "out" / "README.md").read_text()

    stages = [("a", False), ("b", True), ("c", False)]
    assert "s was taught by a and c, on glyphs." in card_of(("a", "b", "c"), stages)
    assert "s was taught by a, b and c, on" in card_of(("a", "b", "c"), ())
    unchanged = card_of(("a", "b"), [("a", True), ("b", True)], abstained=True)
    assert "s is unchanged: a and b could not be shown to improve it" in unchanged


def test_to_the_hub_and_back(endpoint, model, tmp_path):
    named = dataclasses.replace(model, origin="trained here")
    ktjax.export_model(named, tmp_path / "out", training=training())
    url = ktjax.push_to_hub(tmp_path / "out", "me/student", token="hf_right")
    assert url == f"{endpoint}/me/student"
    there = Hub.repositories["me/student"]
    assert set(there) == {"README.md", "config.json", "model.safetensors"}
    assert b'ktjax.predict("hf:me/student", ["photo.jpg"]' in there["README.md"]
    found = models.load("hf:me/student")
    assert found.classes == model.classes
    np.testing.assert_array_equal(
        found.variables["params"]["head"]["kernel"], model.variables["params"]["head"]["kernel"]
    )


def test_only_our_cards_change_and_only_where_they_load_the_model(endpoint, model, tmp_path):
    timms = dataclasses.replace(model, architecture="resnet18")
    named = training(data="folder:FOLDER", command=card.command(["--config=FOLDER", "--workdir=x"]))
    ours = card.text(timms, format="timm", training=named)
    weights.export(model, tmp_path)
    (tmp_path / "README.md").write_text(ours)
    ktjax.push_to_hub(tmp_path, "me/cards", token="hf_right")
    there = Hub.repositories["me/cards"]["README.md"].decode()
    changed = [b for a, b in zip(ours.splitlines(), there.splitlines(), strict=True) if a != b]
    assert [line.partition(", ")[0] for line in changed] == [
        'ktjax.predict("hf:me/cards"',
        '`timm.create_model("hf-hub:me/cards"',
    ]
    own = 'Set DATA_FOLDER, then ktjax.predict("FOLDER", ...)'
    (tmp_path / "README.md").write_text(own)
    ktjax.push_to_hub(tmp_path, "me/cards", token="hf_right")
    assert Hub.repositories["me/cards"]["README.md"].decode() == own


def test_all_parts_go_to_the_hub_and_back(endpoint, model, tmp_path):
    weights.export(model, tmp_path)
    arrays = list(entries.read(tmp_path / weights.WEIGHTS).items())
    (tmp_path / weights.WEIGHTS).unlink()
    parts = {"a.safetensors": dict(arrays[::2]), "b.safetensors": dict(arrays[1::2])}
    for file, part in parts.items():
        (tmp_path / file).write_bytes(safetensors_numpy.save(part))
    index = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (tmp_path / entries.INDEX).write_text(json.dumps(index))
    ktjax.push_to_hub(tmp_path, "me/parts", token="hf_right")
    assert set(Hub.repositories["me/parts"]) == {
        *("README.md", "config.json", entries.INDEX, "a.safetensors", "b.safetensors")
    }
    assert models.load("hf:me/parts").num_parameters() == model.num_parameters()
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=rf"no .*/b.safetensors, which {entries.INDEX} names"):
        ktjax.push_to_hub(tmp_path, "me/parts", token="hf_right")


def test_graphs_go_to_the_hub_and_back(endpoint, tmp_path):
    kept = Path(__file__).parent / "goldens" / "imported" / "dropping"
    graph = json.loads((kept / weights.GRAPH).read_text())
    arrays = {
        name: rule.weight(name, tuple(shape)) if dtype == "float32" else np.zeros(shape, dtype)
        for name, (shape, dtype) in graph["weights"].items()
    }
    folder = Path(shutil.copytree(kept, tmp_path / "out"))
    (folder / weights.WEIGHTS).write_bytes(safetensors_numpy.save(arrays))
    ktjax.push_to_hub(folder, "me/graph", token="hf_right")
    found = models.load("hf:me/graph")
    assert found.definition.training is not None
    np.testing.assert_array_equal(found.variables["params"]["fc.bias"], arrays["fc.bias"])


def test_what_the_hub_does_not_take(endpoint, model, tmp_path):
    with pytest.raises(ValueError, match="holds no config.json and model.safetensors"):
        ktjax.push_to_hub(tmp_path, "me/student")
    weights.export(model, tmp_path)
    with pytest.raises(ValueError, match="The hub rejects 'me/s': .*username or password"):
        ktjax.push_to_hub(tmp_path, "me/s", token="hf_wrong")
    with pytest.raises(ValueError, match="The hub rejects 'a/b/c': "):
        ktjax.push_to_hub(tmp_path, "a/b/c", token="hf_right")
