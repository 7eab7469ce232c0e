"""Parameters, checks and output of managed processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from leitwolf.host.tasks import TaskTree
from leitwolf.model.errors import ResourceError
from leitwolf.model.ids import GroupId, ResourceId
from leitwolf.model.observations import StartResource
from leitwolf.resources import NOT_PERMITTED, Surroundings, process
from leitwolf.resources._checks import Endpoint, check_http, check_tcp, endpoint, web_address
from leitwolf.resources._command import ProcessParameters, account, signal_number
from leitwolf.resources._output import BoundedOutput
from leitwolf.resources.process import Process
from leitwolf.system.containment import Child, Program, SpawnRefused


def test_parameters_have_the_defaults_of_the_model() -> None:
    """Only the command is needed; the words are split as by a shell, without a shell."""
    found = ProcessParameters.parse(
        {"command": "serve 'a b' $HOME | x", "environment": "A=1 B='2 3'"}
    )
    assert found.command == ["serve", "a b", "$HOME", "|", "x"]
    assert found.environment == {"A": "1", "B": "2 3"}
    assert (found.stop_signal, found.stop_timeout_ms) == (signal.SIGTERM, 10_000)
    assert (found.check_interval_ms, found.check_timeout_ms, found.check_failures) == (
        5000,
        3000,
        2,
    )
    assert found.ready_timeout_ms == 30_000
    assert found.output_bytes_max == 10 << 20
    assert found.working_directory == "/"


def test_ready_timeout_is_within_the_start_timeout() -> None:
    """The shorter of the two bounds the wait."""
    found = ProcessParameters.parse({"command": "x", "start_timeout_ms": "70"})
    assert found.ready_timeout_ms == 70


def test_wrong_parameter_is_named() -> None:
    """The first problem of the model is raised with its field."""
    with pytest.raises(ResourceError) as caught:
        ProcessParameters.parse({"command": "x", "check_failures": "0"})
    assert (caught.value.code, caught.value.field) == ("invalid-parameter", "check_failures")


@pytest.mark.parametrize(
    ("text", "number"), [("TERM", 15), ("sigint", 2), ("9", 9), ("USR1", 10), ("40", 40)]
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    """With and without SIG, in any case; real-time signals by number."""
    assert signal_number(text) == number


def test_unknown_account_is_told_apart() -> None:
    """An unknown user and an unknown group have their own codes."""
    with pytest.raises(ResourceError) as caught:
        account("no-such-user-here", "")
    assert caught.value.code == "user-unknown"
    with pytest.raises(ResourceError) as caught:
        account("", "no-such-group-here")
    assert caught.value.code == "group-unknown"


def test_account_brings_groups_and_home() -> None:
    """A user by name and by number is the same; the group may differ from the user's."""
    found = account("root", "")
    assert (found.user, found.group) == (0, 0)
    assert found.environment["HOME"] == "/root"
    assert account("0", "") == found
    assert account("", "").user is None


def test_addresses_of_checks_are_split() -> None:
    """IPv4, bracketed IPv6, localhost and URLs with and without port."""
    assert endpoint("192.0.2.1:80") == Endpoint("192.0.2.1", 80)
    assert endpoint("[2001:db8::1]:443") == Endpoint("2001:db8::1", 443)
    found = web_address("http://localhost/health?x=1")
    assert found == (Endpoint("127.0.0.1", 80), "localhost", "/health?x=1")
    assert web_address("http://[::1]:8080").endpoint == Endpoint("::1", 8080)


async def _answering(answer: bytes) -> str:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):  # the TCP check says nothing
            await reader.readuntil(b"\r\n\r\n")
            for byte in answer:
                writer.write(bytes((byte,)))
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        assert await check_tcp(Endpoint("127.0.0.1", port)) == ""
        return await check_http(web_address(f"http://127.0.0.1:{port}/"))
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("answer", "healthy"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.0 399 Odd\n", True),
        (b"HTTP/1.1 400 Bad\r\n\r\n", False),
        (b"HTTP/1.1 500 Broken\r\n\r\n", False),
        (b"HTTP/1.1 199 Odd\r\n\r\n", False),
        (b"SSH-2.0-x\r\n", False),
        (b"", False),
        (b"HTTP/1.1 \xff\r\n", False),
        (b"x" * 5000, False),
    ],
)
@pytest.mark.asyncio
async def test_http_check_reads_the_status(answer: bytes, healthy: bool) -> None:
    """200..399 is healthy, whatever the pieces in which it comes; everything else is a reason."""
    assert (await _answering(answer) == "") is healthy


@pytest.mark.asyncio
async def test_refused_connection_is_a_reason() -> None:
    """Nobody listens: TCP and HTTP checks say so."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refused" in await check_tcp(Endpoint("127.0.0.1", port))
    assert "refused" in await check_http(web_address(f"http://127.0.0.1:{port}/"))


def test_output_is_cut_at_its_bound(tmp_path: Path) -> None:
    """At half of the bound the last bytes move to the old part; the writer goes on at the start."""
    output = BoundedOutput(tmp_path / "log" / "srv.log", 100)
    descriptor = output.open()
    os.write(descriptor, b"a" * 50)
    assert not output.cut()
    os.write(descriptor, b"b" * 30)
    assert output.cut()
    assert output.old.read_bytes() == b"a" * 20 + b"b" * 30
    os.write(descriptor, b"c")
    assert output.path.read_bytes() == b"c"
    os.close(descriptor)


def test_output_of_a_fast_writer_keeps_its_end(tmp_path: Path) -> None:
    """Far beyond the bound only the last bytes are kept."""
    output = BoundedOutput(tmp_path / "srv.log", 100)
    descriptor = output.open()
    os.write(descriptor, b"x" * 10_000 + b"end")
    os.close(descriptor)
    assert output.cut()
    assert output.old.stat().st_size == 50
    assert output.old.read_bytes().endswith(b"xend")
    assert not output.cut()


def test_removed_output_is_no_error(tmp_path: Path) -> None:
    """Somebody deletes the file: there is nothing to cut."""
    assert not BoundedOutput(tmp_path / "srv.log", 100).cut()


class OneCell:
    """A containment that starts nothing and asks for the permission as a child would."""

    def empty(self, _cell: str) -> bool:
        return True

    def spawn(self, _cell: str, _program: Program, permitted: Callable[[], bool]) -> NoReturn:
        if not permitted():
            raise SpawnRefused
        raise FileNotFoundError(2, "No such file or directory", "nothing")


@pytest.mark.parametrize("reason", ["", "gate-closed"])
@pytest.mark.asyncio
async def test_child_asks_for_the_permission(tmp_path: Path, reason: str) -> None:
    """The child between fork and exec reads the page; refused, it is no failure of the program."""
    order = StartResource(
        resource=ResourceId("r"), group=GroupId("g"), type="process",
        parameters={"command": "nothing"}, lease=1, generation=1, attempt=1,
    )  # fmt: skip
    machine: Any = SimpleNamespace(containment=OneCell(), output=tmp_path)
    surroundings = Surroundings(
        order=order, machine=machine, memory={}, remember=lambda _: None,
        permitted=lambda: reason, note=lambda _code, _text: None,
    )  # fmt: skip
    with pytest.raises(ResourceError if reason else FileNotFoundError) as caught:
        await Process(surroundings).start()
    if isinstance(caught.value, ResourceError):
        assert caught.value.code == NOT_PERMITTED


class Chatty:
    """A containment of one program, which writes all the time and knows no signal but SIGKILL."""

    def __init__(self) -> None:
        self.child = 0

    def empty(self, cell: str) -> bool:
        if not self.child or cell != "r":
            return True
        try:
            return Path(f"/proc/{self.child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except FileNotFoundError:
            return True

    def spawn(self, _cell: str, program: Program, _permitted: Callable[[], bool]) -> Child:
        words = "import signal; signal.signal(15, lambda *_: 0)\nwhile True: print('x' * 999)"
        command = (sys.executable, "-S", "-E", "-c", words)
        action = (os.POSIX_SPAWN_DUP2, program.output, 1)
        self.child = os.posix_spawn(command[0], command, {}, file_actions=[action])
        return Child(self.child, os.pidfd_open(self.child))

    def close(self, _cell: str) -> None:
        pass

    def kill(self, cell: str) -> None:
        if not self.empty(cell):
            os.kill(self.child, signal.SIGKILL)

    def remove(self, _cell: str) -> None:
        pass


@pytest.fixture
def deaf_port() -> Iterator[int]:
    """A port at which nobody listens, and nobody can meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.asyncio
async def test_output_is_bounded_in_all_phases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf_port: int
) -> None:
    """A start and a stop may last an hour each, and the disk is that of the quorum log."""
    monkeypatch.setattr(process, "OUTPUT_POLL_S", 0.01)
    order = StartResource(
        resource=ResourceId("r"), group=GroupId("g"), type="process",
        parameters={
            "command": "x", "check_tcp": f"127.0.0.1:{deaf_port}", "ready_timeout_ms": "60000",
            "stop_timeout_ms": "60000", "output_bytes_max": "8192",
        },
        lease=1, generation=1, attempt=1,
    )  # fmt: skip
    cell, tasks = Chatty(), TaskTree()
    machine: Any = SimpleNamespace(containment=cell, output=tmp_path, tasks=tasks)
    one = Process(
        Surroundings(
            order=order, machine=machine, memory={}, remember=lambda _: None,
            permitted=lambda: "", note=lambda _code, _text: None,
        )
    )  # fmt: skip
    old = tmp_path / "r.log.1"

    async def cut() -> None:
        old.unlink(missing_ok=True)
        async with asyncio.timeout(20):
            while not old.exists():
                await asyncio.sleep(0.01)

    await one.start()
    try:
        starting = asyncio.ensure_future(one.ready())
        await cut()
        assert not starting.done()
        starting.cancel()
        stopping = asyncio.ensure_future(one.stop())
        await cut()
        assert not stopping.done()
    finally:
        cell.kill("r")
    await stopping
    assert old.stat().st_size + (tmp_path / "r.log").stat().st_size <= 8192
    await asyncio.gather(starting, return_exceptions=True)
    await tasks.cancel()
