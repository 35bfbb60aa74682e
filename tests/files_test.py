"""Files are written whole or not at all, and have names that tell them apart."""

import errno
import os

import pytest

from ktjax import files


@pytest.mark.smoke
@pytest.mark.parametrize("content", ["\u00e4 \u6587\n", b"\x00\xff\r\n"], ids=["text", "bytes"])
def test_written_as_it_is(content, tmp_path):
    path = tmp_path / "config.json"
    path.write_text("much longer than what comes instead of it")
    files.write_whole(path, content)
    expected = content if isinstance(content, bytes) else content.encode("utf-8")
    assert path.read_bytes() == expected
    assert os.listdir(tmp_path) == ["config.json"]


def test_who_dies_meanwhile_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    files.write_whole(path, "old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write_whole(path, "new")
    assert path.read_text() == "old"


def test_nothing_is_left_of_what_cannot_be_written(tmp_path, monkeypatch):
    def full(path, content):
        path.touch()
        raise OSError(errno.ENOSPC, "full", str(path))

    monkeypatch.setattr(files.Path, "write_bytes", full)
    with pytest.raises(OSError, match="full"):
        files.write_whole(tmp_path / "config.json", "content")
    assert not os.listdir(tmp_path)


def test_the_folder_has_to_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.write_whole(tmp_path / "no" / "such", "content")


def test_short_names_are_different():
    assert files.short_names(["x/a", "y/b"]) == {"x/a": "a", "y/b": "b"}
    same = files.short_names(["/x/a", "/y/a"])
    assert len(set(same.values())) == 2 and not any("/" in name for name in same.values())
    assert files.short_names(["x/y/..", "z"]) == {"x/y/..": "x", "z": "z"}
    above = files.short_names(["models/a", "../models/a"])
    assert len(set(above.values())) == 2


@pytest.mark.parametrize("name", [".", "..", "/", "a/../..", "..."])
def test_what_names_no_file(name):
    for call in (files.last_part, lambda name: files.short_names([name])):
        with pytest.raises(ValueError, match="has no name to name files after"):
            call(name)


def test_many_long_names_are_one_that_files_can_have():
    names = [f"vit_large_patch14_reg4_dinov2.lvd142m_{i}_ä" for i in range(6)]
    first, other = files.joined(names), files.joined([*names[:5], "else"])
    assert first != other and first.startswith(names[0]) and len(first.encode()) < 140
    assert files.joined(names[:2]) == "+".join(names[:2])
