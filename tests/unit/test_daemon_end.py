"""What a daemon says when it ends by an error that has a code."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from leitwolf.daemon import main
from leitwolf.daemon.keys import KeyFile
from leitwolf.model.errors import StorageError
from leitwolf.model.state import State
from leitwolf.peers.authority import create_identity
from leitwolf.peers.identity import load_identity, save_identity
from leitwolf.system.settings import Settings


def test_keys_that_cannot_be_written_are_an_error_with_a_code(tmp_path: Path) -> None:
    """It names the folder and the way out; the old keys stay, and the next try works."""
    save_identity(tmp_path, create_identity("cluster", "node"))
    former = load_identity(tmp_path).heartbeat_keys
    keys = KeyFile(tmp_path)
    state = State(keys=(former, b"n" * 32))
    in_the_way = tmp_path / "pki" / "heartbeat.key.new"
    in_the_way.mkdir()
    with pytest.raises(StorageError, match=str(tmp_path)) as caught:
        keys.follow(state)
    assert (caught.value.code, caught.value.exit_code) == ("keys-not-written", 8)
    assert caught.value.hint
    assert keys.sealing == former == load_identity(tmp_path).heartbeat_keys
    in_the_way.rmdir()
    assert keys.follow(state)
    assert load_identity(tmp_path).heartbeat_keys == former + b"n" * 32


def test_an_error_from_inside_a_cluster_is_told_with_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A cluster is a group of tasks in another; code, hint and exit status get through."""

    async def fail() -> None:
        raise StorageError("no room", code="keys-not-written", hint="make room")

    async def nested(_: Settings) -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(inner())

    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    ended: list[int] = []
    monkeypatch.setattr(main, "_run", nested)
    monkeypatch.setattr(main, "ensure_folders", lambda _: None)
    monkeypatch.setattr(main.os, "_exit", ended.append)
    monkeypatch.setenv("LEITWOLF_REALTIME", "no")
    main.main()
    assert ended == [8]
    (line,) = capfd.readouterr().err.splitlines()
    told = json.loads(line)
    assert told["error"] == "no room"
    assert (told["code"], told["hint"]) == ("keys-not-written", "make room")
