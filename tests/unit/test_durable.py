"""Small files that are whole after a crash: every step before the last leaves the old one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from leitwolf.system.durable import create_durably, remove_durably, write_durably


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was done, in order; the operating system does it really."""
    done: list[str] = []
    for name in ("fsync", "link"):
        real = getattr(os, name)

        def call(*words: Any, name: str = name, real: Any = real) -> None:
            done.append(name)
            real(*words)

        monkeypatch.setattr(os, name, call)
    replaced = Path.replace

    def replace(source: Path, target: Path) -> Path:
        done.append("replace")
        return replaced(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    return done


def test_a_file_is_durable_before_it_takes_its_place(tmp_path: Path, steps: list[str]) -> None:
    """Contents, then the name, then the folder; nobody else may read it; nothing else is left."""
    path = tmp_path / "note"
    path.write_bytes(b"old")
    write_durably(path, b"new")
    assert steps == ["fsync", "replace", "fsync"]
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_file_never_takes_the_place_of_one(tmp_path: Path, steps: list[str]) -> None:
    """It is made as a whole, or the other one stays."""
    path = tmp_path / "note"
    create_durably(path, b"first")
    assert steps == ["fsync", "link", "fsync"]
    with pytest.raises(FileExistsError):
        create_durably(path, b"second")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"first", [path])


def test_what_cannot_be_made_durable_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former file stands; what a crash left beside it is in nobody's way."""
    path = tmp_path / "note"
    write_durably(path, b"old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="Input/output"):
            write_durably(path, b"new")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"old", [path])
    (tmp_path / "note.new").write_bytes(b"half")
    write_durably(path, b"new")
    assert (path.read_bytes(), list(tmp_path.iterdir())) == (b"new", [path])


def test_a_removed_file_does_not_come_back(tmp_path: Path, steps: list[str]) -> None:
    """The folder is made durable, also when a crash came between the two the last time."""
    path = tmp_path / "note"
    path.write_bytes(b"old")
    remove_durably(path)
    assert (steps, list(tmp_path.iterdir())) == (["fsync"], [])
    remove_durably(path)
    assert steps == ["fsync", "fsync"]
