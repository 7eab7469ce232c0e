"""What a witness writes, in which order, and what it does when the disk fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from leitwolf.model.errors import LogCorrupt, StorageError, SyncFailed
from leitwolf.witness.server import WitnessServer
from leitwolf.witness.speech import PROTOCOL, Ask, Code, Hello, Kind
from leitwolf.witness.vault import Vault


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault(tmp_path / "state")
    made.prepare()
    made.add_token("office", replace=False)
    return made


def path_of(descriptor: int) -> str:
    return Path(f"/proc/self/fd/{descriptor}").readlink().name


def test_a_value_is_durable_before_it_is_confirmed(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file, then its name, then the folder; the old value is there until the rename."""
    steps: list[str] = []
    sync, rename = os.fsync, Path.replace

    def note_sync(descriptor: int) -> None:
        steps.append(f"sync {path_of(descriptor)}")
        sync(descriptor)

    def note_rename(path: Path, target: Path) -> Path:
        steps.append(f"rename {path.name} {target.name}")
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_rename)
    assert vault.put("office", "", b"one", None)
    assert steps == ["sync value.new", "rename value.new value", "sync office"]


def test_what_an_earlier_process_left_is_made_durable_first(
    vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have died between the rename and the sync of the folder."""
    vault.put("office", "", b"one", None)
    steps: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: steps.append(path_of(descriptor)))
    vault.occupy()
    vault.close()
    assert steps == ["value", "office", "clusters"]


def test_the_way_out_of_a_damaged_value_is_told(vault: Vault) -> None:
    """It is never taken for the value before; so the file must go before another one is made."""
    vault.put("office", "", b"one", None)
    path = vault._path("office", "")
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    for step in (lambda: vault.get("office", ""), lambda: vault.put("office", "", b"two", None)):
        with pytest.raises(LogCorrupt, match=str(path)) as caught:
            step()
        assert "remove the file" in caught.value.hint
        assert caught.value.hint.endswith("leitwolf quorum replace")
    path.unlink()
    assert vault.put("office", "", b"two", None)


def failing(code: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def test_a_failed_sync_ends_the_daemon(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows what a crash would leave: nothing is answered, nothing is tried again (A2)."""

    class Ended(BaseException):
        pass

    def end(status: int) -> None:
        raise Ended(status)

    monkeypatch.setattr(os, "fsync", failing(5))
    monkeypatch.setattr(os, "_exit", end)
    with pytest.raises(SyncFailed):
        vault.put("office", "", b"one", None)
    server = WitnessServer(vault)
    hello = Hello(protocol=1, name="office", secret=b"")
    with pytest.raises(Ended) as caught:
        server._answer(hello, Ask(kind=Kind.PUT, data=b"one"))
    assert caught.value.args == (8,)


def test_a_full_disk_changes_nothing(vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old value stays, the caller is told, the daemon goes on."""
    version = vault.put("office", "", b"one", None)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing(28))
        with pytest.raises(StorageError, match="No space left"):
            vault.put("office", "", b"two", version)
        reply = WitnessServer(vault)._answer(
            Hello(protocol=1, name="office", secret=b""),
            Ask(kind=Kind.PUT, data=b"two", expected=version),
        )
        assert reply.code is Code.FAILED
    found = vault.get("office", "")
    assert found is not None
    assert (found.data, found.version) == (b"one", version)


@pytest.mark.asyncio
async def test_tokens_that_cannot_be_read_are_told(vault: Vault, tmp_path: Path) -> None:
    """That is a fault of the witness, not of a caller who hung up or broke the protocol."""
    tokens = tmp_path / "state" / "clusters" / "office" / "tokens"
    hello = Hello(protocol=PROTOCOL, name="office", secret=b"s")
    tokens.write_bytes(b"\xff")
    garbled = await WitnessServer(vault)._greet(hello, "192.0.2.1")
    tokens.unlink()
    tokens.mkdir()
    unreadable = await WitnessServer(vault)._greet(hello, "192.0.2.1")
    for reply in (garbled, unreadable):
        assert reply.code is Code.FAILED
        assert "tokens cannot be read" in reply.text
