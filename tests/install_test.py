"""What pip installs, in whichever way, has the configs and the console script."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from ktjax import models

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
OPTIONS = ["--no-deps", "--no-build-isolation", "--use-pep517"]


def run(*command, cwd, code=0):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=clean | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of what is installed, so that nothing is built in the clone itself."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("ktjax", "configs"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in ("setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(*PIP, "wheel", *OPTIONS, "-w", folder, clone, cwd=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def install(tmp_path_factory):
    """install(*what): the `bin` of an environment of its own, in which the libraries of ours are.

    Of a folder that a .pth file names, Python reads no .pth files: an editable install of ktjax
    that the tests may run in is not seen.
    """

    def into(*what):
        environment = tmp_path_factory.mktemp("environment")
        run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
        (packages,) = environment.glob("lib/python*/site-packages")
        (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        python = environment / "bin" / "python"
        pip = [*PIP, "--python", python, "install", "--ignore-installed", *OPTIONS]
        run(*pip, *what, cwd=environment)
        return environment / "bin"

    return into


@pytest.fixture(scope="module")
def plain(install, clone):
    return install(clone)


def check(folder, cwd, package):
    """Both ways to a config lead to `package`, and so does a typo."""
    code = "from ktjax.configs import transfer; print(transfer.__file__)"
    found = run(folder / "python", "-c", code, cwd=cwd).stdout.strip()
    assert Path(found) == package / "configs" / "transfer.py"
    for command in ([folder / "ktjax"], [folder / "python", "-m", "ktjax"]):
        flags = ["--workdir=W", "--config=transfer:students=a"]
        told = run(*command, *flags, cwd=cwd, code=1).stderr
        assert told.startswith("ktjax: Unknown config argument 'students'. Known: ")


def package_of(folder):
    (package,) = folder.parent.glob("lib/python*/site-packages/ktjax")
    return package


def test_plain_install(plain, tmp_path):
    check(plain, tmp_path, package_of(plain))
    assert not (package_of(plain) / "configs").is_symlink()


def test_plain_install_used_from_the_root_of_the_clone(plain, clone):
    check(plain, clone, clone / "ktjax")
    told = run(plain / "python", "-c", "from configs import transfer", cwd=clone)
    assert told.stderr == ""
    flags = ["--workdir=W", "--config=configs/transfer.py:students=a"]
    told = run(plain / "ktjax", *flags, cwd=clone, code=1).stderr
    assert told.startswith("ktjax: Unknown config argument 'students'.")


def test_wheel(install, wheel, tmp_path):
    folder = install(wheel)
    check(folder, tmp_path, package_of(folder))
    assert (package_of(folder) / "py.typed").exists()


@pytest.mark.full
def test_a_wheel_does_what_it_is_for(install, wheel, tmp_path):
    """In an environment of its own, away from the clone: a transfer, and an answer."""
    folder, workdir = install(wheel), tmp_path / "workdir"
    run(folder / "ktjax", "--config=quickstart:runlocal", f"--workdir={workdir}", cwd=tmp_path)
    assert (workdir / "report.html").exists()
    photo = tmp_path / "photo.png"
    Image.new("RGB", (30, 40), (200, 60, 60)).save(photo)
    (student, *_) = sorted((workdir / "students").glob("kl_dp-*"))
    told = run(folder / "ktjax", "predict", student, photo, "--top=3", cwd=tmp_path).stdout
    assert told.splitlines()[0] == str(photo) and len(told.splitlines()) == 4


def test_editable_install(install, clone, tmp_path):
    folder = install("-e", clone)
    check(folder, tmp_path, clone / "ktjax")


@pytest.mark.parametrize("flags", [[], ["--help"]])
def test_help(flags, tmp_path):
    command = [sys.executable, "-m", "ktjax", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == ""
    assert re.search(r"one of: .*\bquickstart, .*\btransfer", done.stdout)
    assert "--workdir: " in done.stdout and "--config: " in done.stdout


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("quickstrat", r"no config 'quickstrat'\. Nearest: quickstart; or a Python file\."),
        ("zzz", r"no config 'zzz'\. Known: .*quickstart.*; or a Python file\."),
        ("__init__", r"no config '__init__'\."),
        (
            "configs/quickstart.py",
            r"no config file 'configs/quickstart.py' in .*\. The one that comes with the package: "
            r"--config=quickstart\.",
        ),
        ("quickstart:fast", r"Unknown config argument 'fast'\. Known: runlocal\."),
    ],
)
@pytest.mark.parametrize("form", ["--config={}", "--config {}"])
def test_what_is_said_of_names(config, told, form, tmp_path):
    words = form.format(config).split()
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ktjax import main; main.cli()"
    command = [sys.executable, "-c", code, ROOT, *words, "--workdir=W"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert re.match(f"ktjax: {told}", done.stderr), done.stderr
    assert not list(tmp_path.iterdir())


def test_own_config_file_in_the_working_directory(tmp_path):
    """Also one that has the name of ours."""
    (tmp_path / "quickstart.py").write_text("def get_config(arg): raise ValueError(f'mine: {arg}')")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ktjax import main; main.cli()"
    command = [sys.executable, "-c", code, ROOT, "--config=quickstart.py:x", "--workdir=W"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stderr.startswith("ktjax: mine: x")


@pytest.mark.full
def test_what_would_be_uploaded(clone, tmp_path):
    """An archive of the sources, a wheel made of it, and a README that PyPI shows."""
    pytest.importorskip("build")
    pytest.importorskip("twine")
    run(sys.executable, "-m", "build", "-n", "-o", tmp_path, clone, cwd=tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert [path.suffix for path in paths] == [".whl", ".gz"]
    told = run(sys.executable, "-m", "twine", "check", "--strict", *paths, cwd=tmp_path).stdout
    assert told.count("PASSED") == 2
    names = zipfile.ZipFile(paths[0]).namelist()
    for name in ("py.typed", "configs/quickstart.py", "configs/paper/__init__.py"):
        assert f"ktjax/{name}" in names
    weights = [n for n in names if re.fullmatch(r"ktjax/models/glyphs/\w+/model.safetensors", n)]
    assert len(weights) == len(models.zoo())
    assert any(name.endswith("/LICENSE") for name in names)
