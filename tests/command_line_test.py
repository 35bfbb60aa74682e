"""The command line: a job from its flags, mistakes as sentences, help."""

import subprocess
import sys

import pytest
from small_jobs import (
    launch,
    read,
)


def test_command_line(images, cached, tmp_path):
    config = f"configs/pretrain.py:model=tiny_mlp_narrow,data=folder:{images},runlocal"
    steps = ("--config.total_epochs=None", "--config.total_steps=3")
    done = launch(
        f"--config={config}", f"--workdir={tmp_path}", "--config.seed=3", *steps, **cached
    )
    assert done.returncode == 0, done.stderr
    assert "tiny_mlp_narrow" in done.stdout and str(tmp_path / "report.html") in done.stdout
    results = read(tmp_path)
    assert results["runs"][0]["seed"] == results["config"]["seed"] == 3
    assert results["runs"][0]["history"][-1]["step"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian.py", "--config.seed=1"], "no config file 'configs/pretrian.py' in "),
        (["pretrain.py:data=glyphz"], "No data set 'glyphz'. Known: glyphs"),
        (["pretrain.py:dataa=glyphs"], "Unknown config argument 'dataa'. Known: data, model"),
        (["pretrain.py", "--config.lrr=1"], "the config has no field 'lrr'. Nearest: "),
        (
            ["pretrain.py", "--config.batchsize", "1"],
            "the config has no field 'batchsize'. Nearest: batch_size, eval_batch_size, ",
        ),
        (
            ["transfer.py", "--config.objectives.kl_dp.topk=1"],
            "config.objectives.kl_dp has no field 'topk'. Nearest: objectives.kl_dp.top_k, "
            "objectives.kl_dp.top_k_of, ",
        ),
        (
            ["transfer.py", "--config.learning_rate=1"],
            "the config has no field 'learning_rate'. Nearest: objectives.kl_dp.learning_rate, "
            "objectives.kl_pool.learning_rate, learning_rates.\n",
        ),
        (["pretrain.py", "--config.batch_size=big"], "flag --config.batch_size=big"),
        (["pretrain.py", "--config.batch_size=None"], "config.batch_size=None must be a whole"),
        (["pretrain.py", "--config.lrr=None"], "the config has no field 'lrr'. Nearest: "),
    ],
)
def test_command_line_error_is_a_sentence(arguments, message, tmp_path):
    workdir = tmp_path / "workdir"
    config, *others = arguments
    done = launch("--config", f"configs/{config}", *others, f"--workdir={workdir}")
    assert done.returncode == 1
    assert done.stderr.startswith(f"ktjax: {message}")
    assert "Traceback" not in done.stderr
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config=pretrain:data=glyphz"], "No data set 'glyphz'"),
        (["--config=transfer", "--config.eval_data=folder:/nowhere"], "No folder '/nowhere'"),
        (["--config=transfer", "--config.batch_size=-1"], "config.batch_size=-1 must be 1"),
        (["--config=transfer", "--config.job=tranfer"], "config.job='tranfer' is not known"),
        (["--config=transfer", "--config.batchsize=1"], "the config has no field 'batchsize'"),
    ],
)
def test_mistakes_are_told_before_anything_heavy_is_imported(words, message, python):
    code = (
        "import sys; from ktjax import main\n"
        f"sys.argv = ['ktjax', '--workdir=/nowhere', *{words}]\n"
        "try: main.cli()\n"
        "except SystemExit as end: print(f'{end.code}|', 'jax' in sys.modules)"
    )
    told, heavy = " ".join(python(code)).split("|")
    assert told.startswith(f"ktjax: {message}") and heavy == " False"


def test_console_script_has_help():
    script = "import sys; sys.argv = ['bin/ktjax', '--help']; from ktjax import main; main.cli()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "--workdir: " in done.stdout and "--[no]overwrite: " in done.stdout
