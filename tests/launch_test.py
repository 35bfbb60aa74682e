"""What a start asks of JAX before it begins."""

import contextvars
import logging
import signal
import sys
import threading
import types

import jax
import jax.numpy as jnp
import pytest
from absl import flags as absl_flags
from absl.testing import flagsaver
from ml_collections import config_dict

from ktjax import compiled, flags, interruption, launch, peers
from ktjax.experiment import logs


def asked(monkeypatch, folder, processor, given=None):
    """What is asked where programs are to be kept in a folder, on such a processor."""
    found = {}
    info = folder.parent / "cpuinfo"
    info.write_text(processor)
    monkeypatch.setattr(compiled, "CPU_INFO", info)
    absl_flags.FLAGS.mark_as_parsed()
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", given)
    try:
        with monkeypatch.context() as patch, flagsaver.flagsaver(compiled=str(folder)):
            patch.setattr(jax.config, "update", found.__setitem__)
            launch._keep_compiled()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    return found


def test_programs_are_kept_apart_by_processor(monkeypatch, tmp_path):
    folder = tmp_path / "compiled"
    one, same, other = (
        asked(monkeypatch, folder, text)["jax_compilation_cache_dir"]
        for text in ("flags : avx\nMHz : 1", "flags : avx\nMHz : 2", "flags : avx avx512f")
    )
    assert one == same != other and one.startswith(f"{folder}/")


def test_several_processes_keep_programs_only_where_they_are_told_to(monkeypatch, tmp_path, caplog):
    """One writes alone; on GPUs who finds a program would let who compiles it wait."""
    monkeypatch.setattr(compiled, "CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    absl_flags.FLAGS.mark_as_parsed()
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        for given, alike, kept in (
            (None, True, False),
            (str(tmp_path), True, True),
            (str(tmp_path), False, False),
        ):
            found = {}
            with monkeypatch.context() as patch, flagsaver.flagsaver(compiled=given):
                patch.setattr(jax.config, "update", found.__setitem__)
                patch.setattr(peers, "agree", lambda _, alike=alike: alike)
                launch._keep_compiled()
            assert bool(found) == kept
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    (said,) = caplog.messages
    assert said.endswith(f"not kept in '{tmp_path}': the processes have different processors.")


def test_who_has_asked_jax_is_not_overruled(monkeypatch, tmp_path):
    assert not asked(monkeypatch, tmp_path / "compiled", "flags : avx", given="elsewhere")


def test_another_process_may_keep_programs_as_this_one_does(tmp_path, monkeypatch):
    before = {name: getattr(jax.config, name) for name in compiled.SETTINGS}
    try:
        for given in (None, "elsewhere"):
            jax.config.update("jax_compilation_cache_dir", given)
            assert compiled.how() is None
        for given, expected in ((tmp_path, {"folder": str(tmp_path)}), (None, {})):
            jax.config.update("jax_compilation_cache_dir", None)
            compiled.keep(given)
            assert compiled.how() == expected  # of the default, that machine's own
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.chdir(tmp_path)
        compiled.keep("here")  # a task has another working directory
        assert compiled.how() == {"folder": f"{tmp_path}/here"}
        jax.config.update("jax_compilation_cache_dir", None)
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
        compiled.keep()
        assert compiled.how() is None
        monkeypatch.setattr(peers, "agree", lambda _: True)
        with pytest.raises(ValueError, match="on a disk, not in 'gs://bucket'"):
            compiled.keep("gs://bucket")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def test_what_threads_raise_is_in_the_log(monkeypatch, capfd, caplog):
    """Those of libraries, too: TensorStore's have Python print what they cannot tell anybody."""
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(interruption._Asked, "ignored", None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    launch._log_threads()
    interruption.listen()

    def printed():
        try:
            raise RuntimeError("Event loop is closed")
        except RuntimeError:
            sys.excepthook(*sys.exc_info())

    class Broken:
        def __del__(self):
            raise OSError("the disk is full")

    with caplog.at_level(logging.INFO, "ktjax"):
        Broken()
        assert "Python ignored OSError: the disk is full" in caplog.text
        for work in (printed, lambda: 1 / 0):
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        assert "printed RuntimeError: Event loop is closed" in caplog.text
        assert "A thread ended with ZeroDivisionError" in caplog.text
        assert "Traceback" not in capfd.readouterr().err
        printed()
    assert "Traceback" in capfd.readouterr().err  # the main thread's is shown


def too_large():
    jax.block_until_ready(jnp.zeros(1 << 46))


def broken():
    raise jax.errors.JaxRuntimeError("INTERNAL: Gloo all-reduce failed.")


@pytest.fixture
def ends(monkeypatch):
    """ends(work, distributed, **fields): what is said to other processes when a job ends so."""

    def leave(sentence, flush):
        raise SystemExit(sentence)

    def ends(work, distributed, **fields):
        job = types.SimpleNamespace(run=lambda *_, **__: work())
        config = types.SimpleNamespace(value=config_dict.ConfigDict({"job": "pretrain"} | fields))
        monkeypatch.setitem(sys.modules, "a_job", job)
        monkeypatch.setattr(launch, "JOBS", {"pretrain": "a_job"})
        monkeypatch.setattr(flags, "CONFIG", config)
        with flagsaver.flagsaver(distributed=distributed), pytest.raises(SystemExit) as told:
            launch.run()
        return str(told.value)

    absl_flags.FLAGS.mark_as_parsed()
    monkeypatch.setattr(flags, "verbosity_is_given", lambda: True)
    monkeypatch.setattr(launch, "_keep_compiled", lambda: None)
    monkeypatch.setattr(launch, "_start_processes", lambda: None)
    monkeypatch.setattr(interruption, "listen", lambda: None)
    monkeypatch.setattr(peers, "leave", leave)
    monkeypatch.setattr(logs, "expect", lambda: None)
    monkeypatch.setattr(logs, "to_terminal", lambda: None)
    monkeypatch.setattr(logs, "STARTED_BY", contextvars.ContextVar("started by"))
    return ends


@pytest.mark.parametrize("distributed", [False, True])
def test_a_device_with_too_little_memory_is_a_sentence(distributed, ends):
    begin = "A device has too little memory (RESOURCE_EXHAUSTED: Out of memory allocating "
    fields = dict(batch_size=64, eval_batch_size=512)
    said = ends(too_large, distributed, **fields)
    assert said.startswith(begin) and said.count("\n") == 0
    assert " bytes). Lower config.batch_size or config.eval_batch_size, or set config.mi" in said
    said = ends(too_large, distributed, eval_batch_size=512)  # a job that does not train
    assert said.endswith(" bytes). Lower config.eval_batch_size (.github/CLUSTERS.md).")


def test_other_errors_of_devices_keep_their_traceback_or_end_all_processes(ends):
    with pytest.raises(jax.errors.JaxRuntimeError, match="Gloo"):
        ends(broken, False)
    said = ends(broken, True)
    assert said.endswith(
        "failed: INTERNAL: Gloo all-reduce failed. Start all of them again to "
        "resume from the latest checkpoint."
    )


def test_programs_are_kept_once_the_processes_have_met(ends, monkeypatch):
    order = []
    monkeypatch.setattr(launch, "_keep_compiled", lambda: order.append("kept"))
    monkeypatch.setattr(launch, "_start_processes", lambda: order.append("met"))
    ends(broken, True)
    assert order == ["met", "kept"]
