"""The host sees to it that there is a keeper, and asks it how adopted processes ended."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from leitwolf.host import keeper as subject
from leitwolf.host.keeper import exit_status, watch_keeper
from leitwolf.keeper import main as keeper_main
from leitwolf.resources import ExitStatus
from leitwolf.system.pidfd import start_time
from leitwolf.system.progress import Role, Slot
from leitwolf.system.settings import Settings
from leitwolf.wire.keeper import KEEPER, ExitAnswer, ExitQuery


class Slots:
    """The keeper's slot, as the test sets it."""

    def __init__(self, slot: Slot) -> None:
        self.keeper = slot

    def slot(self, role: Role) -> Slot:
        assert role is Role.KEEPER
        return self.keeper


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "REVIVE_AFTER_S", 0.01)
    monkeypatch.setattr(subject, "_LOOK_S", 0.01)
    monkeypatch.setattr(subject, "ANSWER_TIMEOUT_S", 30)


def spawn() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)


async def watched(
    slots: Slots, revived: asyncio.Event, started: list[int] | None = None
) -> asyncio.Task[None]:
    def revive() -> int:
        revived.set()
        return started.pop() if started else os.getpid()

    task = asyncio.create_task(watch_keeper(slots, revive))  # type: ignore[arg-type]
    await asyncio.sleep(0.05)
    return task


@pytest.mark.asyncio
async def test_dead_keeper_is_revived() -> None:
    """The keeper dies and no other takes its slot: one is started."""
    child = spawn()
    revived = asyncio.Event()
    task = await watched(Slots(Slot(process=child.pid, started=start_time(child.pid))), revived)
    assert not revived.is_set()
    child.communicate()
    await asyncio.wait_for(revived.wait(), 30)
    task.cancel()


@pytest.mark.asyncio
async def test_one_keeper_is_revived_at_a_time() -> None:
    """A slow start is waited for; only when it ended without taking the slot comes another."""
    child, slow = spawn(), spawn()
    revived = asyncio.Event()
    slots = Slots(Slot(process=child.pid, started=start_time(child.pid)))
    task = await watched(slots, revived, [slow.pid])
    child.communicate()
    await asyncio.wait_for(revived.wait(), 30)
    revived.clear()
    await asyncio.sleep(0.3)
    assert not revived.is_set()
    slow.communicate()
    await asyncio.wait_for(revived.wait(), 30)
    task.cancel()


@pytest.mark.asyncio
async def test_a_machine_without_room_is_asked_again() -> None:
    """A host that ended by that would leave a node that nobody restarts."""
    tried = asyncio.Event()
    tries = 0

    def revive() -> int:
        nonlocal tries
        tries += 1
        if tries == 2:
            tried.set()
        raise BlockingIOError(11, "Resource temporarily unavailable")

    child = spawn()
    slots: Any = Slots(Slot(process=child.pid, started=start_time(child.pid)))
    task = asyncio.create_task(watch_keeper(slots, revive))
    child.communicate()
    await asyncio.wait_for(tried.wait(), 30)
    task.cancel()


def test_a_shell_that_says_nothing_is_no_endless_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host waits for it while nothing else in it runs."""
    monkeypatch.setattr(keeper_main, "_SHELL", "/bin/true")
    with pytest.raises(OSError, match="started no keeper"):
        keeper_main.revive(Settings())


def test_the_keeper_that_was_started_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the shell that started it: that is gone at once, and another would be started."""
    said, program = tmp_path / "said", tmp_path / "program"
    program.write_text(f"#!/bin/sh\necho $$ >{said}.new\nmv {said}.new {said}\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    started = keeper_main.revive(Settings())
    deadline = time.monotonic() + 30
    while not said.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert int(said.read_text()) == started


@pytest.mark.asyncio
async def test_new_keeper_needs_no_revival(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another keeper takes the slot in time: nothing is started."""
    monkeypatch.setattr(subject, "REVIVE_AFTER_S", 0.3)
    child = spawn()
    slots, revived = Slots(Slot(process=child.pid, started=start_time(child.pid))), asyncio.Event()
    task = await watched(slots, revived)
    child.communicate()
    slots.keeper = Slot(process=os.getpid(), started=start_time(os.getpid()))
    await asyncio.sleep(0.5)
    assert not revived.is_set()
    task.cancel()


@pytest.mark.asyncio
async def test_host_by_hand_starts_no_keeper() -> None:
    """No keeper was ever here: the host starts none."""
    revived = asyncio.Event()
    task = await watched(Slots(Slot()), revived)
    assert not revived.is_set()
    task.cancel()


@pytest.mark.parametrize("mood", ["absent", "silent", "rubbish", "ignorant", "knowing"])
@pytest.mark.asyncio
async def test_status_is_known_or_unknown_in_time(
    tmp_path: Path, mood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the keeper does, there is an answer; only a knowing keeper's is a status."""
    if mood == "silent":
        monkeypatch.setattr(subject, "ANSWER_TIMEOUT_S", 0.2)
    path = tmp_path / "keeper.sock"
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.setblocking(False)
    loop = asyncio.get_running_loop()
    if mood != "absent":
        server.bind(str(path))
        server.listen()

    async def serve() -> None:
        client, _ = await loop.sock_accept(server)
        with client:
            question = KEEPER.decode(await loop.sock_recv(client, 256))
            assert question == ExitQuery(17, 4)
            if mood == "silent":
                await asyncio.sleep(60)
            known = mood == "knowing"
            answer = ExitAnswer(17, known=known, code=3, signal=0)
            await loop.sock_sendall(client, b"?" if mood == "rubbish" else KEEPER.encode(answer))

    task = asyncio.create_task(serve())
    status = await exit_status(path, 17, 4)
    assert status == (ExitStatus(code=3) if mood == "knowing" else ExitStatus())
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    server.close()
