"""The resource type ``process``: a program that the host starts, watches and stops.

Rules

- The program runs in a cell (one per resource), from its first instruction on. The guard can kill
  the cell without this host, and a host that comes back finds it.
- Its output goes to a file that it writes itself, never through the host. The file is bounded from
  the start until nothing is left to write to it, whatever phase that takes long.
- Its main process is the one that was started: when that ends, the resource has failed, whatever
  children it leaves; they are killed. A program that forks and exits must be told to stay in the
  foreground.
- To stop, the main process gets ``stop_signal``; when it has ended, or after ``stop_timeout_ms``,
  everything left in the cell is killed until the cell is empty.
- With a check, the resource is online when the check passed first, polled every 20 ms. Later the
  check runs every ``check_interval_ms``; ``check_failures`` in a row (a timeout is one) are a
  failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

from leitwolf.model.errors import ResourceError
from leitwolf.resources._checks import check_http, check_tcp
from leitwolf.resources._command import ProcessParameters, account
from leitwolf.resources._output import OUTPUT_POLL_S, BoundedOutput
from leitwolf.resources._surroundings import NOT_PERMITTED, ExitStatus, Surroundings
from leitwolf.system.containment import Containment, Program, SpawnRefused
from leitwolf.system.pidfd import ProcessHandle, start_time

__all__ = ["CHECK_CELL_SUFFIX", "Process", "end_cell"]

READY_POLL_S = 0.020
"""Agents that poll once a second make starts slow; a check costs less than 1 ms."""
KILL_TIMEOUT_S = 5.0
"""What SIGKILL does not end within this time hangs in the kernel; the node's lease is at stake."""
CHECK_CELL_SUFFIX = ".check"


async def end_cell(containment: Containment, cell: str) -> None:
    """Kill what runs in a cell until it is empty, and remove it.

    Raises:
        ResourceError: ``stop-timeout``: SIGKILL did not help within KILL_TIMEOUT_S.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + KILL_TIMEOUT_S
    pause = 0.001
    while not containment.empty(cell):
        containment.close(cell)
        containment.kill(cell)
        if loop.time() >= deadline:
            left = ", ".join(map(str, containment.processes(cell)))
            raise ResourceError(
                f"processes {left} outlive SIGKILL by {KILL_TIMEOUT_S:.0f} s", code="stop-timeout"
            )
        await asyncio.sleep(pause)
        pause = min(2 * pause, READY_POLL_S)
    containment.remove(cell)


class Process:
    """A process under control; see :class:`leitwolf.resources.ResourceType`."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._containment = surroundings.machine.containment
        self._cell = str(surroundings.order.resource)
        self._parameters = ProcessParameters.parse(surroundings.order.parameters)
        self._output = BoundedOutput(
            surroundings.machine.output / f"{self._cell}.log", self._parameters.output_bytes_max
        )
        self._main: ProcessHandle | None = None
        self._end: asyncio.Future[ExitStatus] | None = None
        self._bounding: asyncio.Task[None] | None = None
        self._child = False

    async def start(self) -> None:
        """Start the program in its cell.

        Raises:
            ResourceError: ``not-permitted``, ``user-unknown``, ``group-unknown``.
            OSError: it cannot be executed.
        """
        if not self._containment.empty(self._cell):
            await end_cell(self._containment, self._cell)
        self._child = True
        try:
            handle = self._spawn(self._cell, self._parameters.command)
        except SpawnRefused as error:
            raise ResourceError(str(error.strerror), code=NOT_PERMITTED) from error
        self._follow(handle)
        # a child that is not waited for keeps its place in /proc, even when it has ended
        started = start_time(handle.process)
        self._surroundings.remember({"pid": str(handle.process), "started": str(started)})

    async def ready(self) -> None:
        """Return when the check passes; without a check, when the program outlived one poll.

        Raises:
            ResourceError: ``exited``, ``ready-timeout``.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._parameters.ready_timeout_ms / 1_000
        if self._check() is None:
            await self._sleep(READY_POLL_S)
            return
        while reason := await self._checked():
            if loop.time() >= deadline:
                raise ResourceError(
                    f"not ready after {self._parameters.ready_timeout_ms} ms: {reason}",
                    code="ready-timeout",
                )
            await self._sleep(READY_POLL_S)

    async def watch(self) -> None:
        """Run the check at its interval.

        Raises:
            ResourceError: ``exited``, ``check-failed``.
        """
        interval = self._parameters.check_interval_ms / 1_000
        failures = 0
        while True:
            await self._sleep(interval)
            if self._check() is None:
                continue
            reason = await self._checked()
            failures = failures + 1 if reason else 0
            if failures >= self._parameters.check_failures:
                raise ResourceError(f"{failures} checks failed: {reason}", code="check-failed")

    async def adopt(self) -> bool:
        """Find the main process that an earlier host started.

        Raises:
            ResourceError: ``exited``: it is gone, with its status if the keeper reaped it.
        """
        memory = self._surroundings.memory
        if "pid" not in memory:
            return self._adopt_unrecorded()
        pid, started = int(memory["pid"]), int(memory["started"])
        handle = ProcessHandle.adopt(pid, started)
        if handle is None or pid not in self._containment.processes(self._cell):
            if handle is not None:
                handle.close()
            status = await self._surroundings.machine.exit_status(pid, started)
            raise ResourceError(f"{status} (while no host ran)", code="exited")
        self._follow(handle)
        return True

    async def stop(self) -> None:
        """Signal the main process, wait, then kill what is left until the cells are empty.

        Raises:
            ResourceError: ``stop-timeout``: SIGKILL did not help.
        """
        await end_cell(self._containment, self._cell + CHECK_CELL_SUFFIX)
        if self._main is not None and self._end is not None and not self._end.done():
            self._main.send(self._parameters.stop_signal)
            await asyncio.wait({self._end}, timeout=self._parameters.stop_timeout_ms / 1_000)
        await end_cell(self._containment, self._cell)
        self._cut_output()
        if self._end is not None:
            # the main process is dead, so its descriptor is readable: let it be reaped
            await asyncio.wait({self._end}, timeout=KILL_TIMEOUT_S)
        self._unfollow()

    def kill(self) -> None:
        """Kill both cells."""
        for cell in (self._cell, self._cell + CHECK_CELL_SUFFIX):
            self._containment.close(cell)
            self._containment.kill(cell)

    async def stopped(self) -> bool:
        """Ask the containment whether both cells are empty."""
        return self._containment.empty(self._cell) and self._containment.empty(
            self._cell + CHECK_CELL_SUFFIX
        )

    # --- processes -------------------------------------------------------------------------------

    def _spawn(self, cell: str, command: list[str]) -> ProcessHandle:
        order, parameters = self._surroundings.order, self._parameters
        owner = account(parameters.user, parameters.group)
        environment = owner.environment | {
            "LEITWOLF_RESOURCE": str(order.resource),
            "LEITWOLF_GROUP": str(order.group),
            "LEITWOLF_GENERATION": str(order.generation),
        }
        output = self._output.open() if cell == self._cell else os.open(os.devnull, os.O_WRONLY)
        try:
            program = Program(
                argv=command,
                environment=environment | parameters.environment,
                directory=parameters.working_directory,
                user=owner.user,
                group=owner.group,
                groups=owner.groups,
                output=output,
            )
            child = self._containment.spawn(
                cell, program, lambda: not self._surroundings.permitted()
            )
        finally:
            os.close(output)
        os.close(child.pidfd)
        return ProcessHandle(child.pid)

    def _adopt_unrecorded(self) -> bool:
        """Take the oldest process of the cell: the host died between the start and its record."""
        found: list[tuple[int, ProcessHandle]] = []
        for pid in self._containment.processes(self._cell):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # gone meanwhile
                found.append((start_time(pid), ProcessHandle(pid)))
        found.sort(key=lambda one: one[0])
        for _, younger in found[1:]:
            younger.close()
        if found:
            self._follow(found[0][1])
        return bool(found)

    def _follow(self, handle: ProcessHandle) -> None:
        loop = asyncio.get_running_loop()
        self._main = handle
        self._end = loop.create_future()
        loop.add_reader(handle.descriptor, self._ended)
        self._bounding = self._surroundings.machine.tasks.start(
            self._bound_output(), f"output {self._cell}"
        )

    def _unfollow(self) -> None:
        if self._bounding is not None:
            self._bounding.cancel()
            self._bounding = None
        if self._main is not None:
            asyncio.get_running_loop().remove_reader(self._main.descriptor)
            self._main.close()
            self._main = None

    def _ended(self) -> None:
        """The descriptor became readable: the main process ended."""
        if self._main is None or self._end is None or self._end.done():
            return
        asyncio.get_running_loop().remove_reader(self._main.descriptor)
        self._end.set_result(self._reap(self._main) if self._child else ExitStatus())

    @staticmethod
    def _reap(handle: ProcessHandle, flags: int = 0) -> ExitStatus:
        result = os.waitid(os.P_PIDFD, handle.descriptor, os.WEXITED | os.WNOHANG | flags)
        if result is None:
            return ExitStatus()
        if result.si_code == os.CLD_EXITED:
            return ExitStatus(code=result.si_status)
        return ExitStatus(signal=result.si_status)

    async def _exited(self) -> ResourceError:
        """Return the failure that tells how the main process ended."""
        status = self._end.result() if self._end is not None else ExitStatus()
        if not self._child and self._main is not None:
            started = int(self._surroundings.memory.get("started", "0"))
            status = await self._surroundings.machine.exit_status(self._main.process, started)
        return ResourceError(str(status), code="exited")

    # --- watching --------------------------------------------------------------------------------

    async def _sleep(self, duration_s: float) -> None:
        """Sleep; raise at once when the main process ends."""
        if self._end is None:
            raise ResourceError("was not started", code="exited")
        await asyncio.wait({self._end}, timeout=duration_s)
        if self._end.done():
            raise await self._exited()

    def _check(self) -> Callable[[], Coroutine[object, object, str]] | None:
        parameters = self._parameters
        if (endpoint := parameters.check_tcp) is not None:
            return lambda: check_tcp(endpoint)
        if (address := parameters.check_http) is not None:
            return lambda: check_http(address)
        if parameters.check_command:
            return lambda: self._check_command(parameters.check_command)
        return None

    async def _checked(self) -> str:
        """Run the check once, bounded in time; '' or why it failed."""
        check = self._check()
        if check is None or self._end is None:
            return ""
        work = self._surroundings.machine.tasks.start(check(), f"check {self._cell}", handled=True)
        timeout_ms = self._parameters.check_timeout_ms
        try:
            either: set[asyncio.Future[Any]] = {work, self._end}
            await asyncio.wait(
                either, timeout=timeout_ms / 1_000, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        if self._end.done():
            raise await self._exited()
        return f"no answer in {timeout_ms} ms" if work.cancelled() else str(work.result())

    async def _check_command(self, command: list[str]) -> str:
        """Run a command in its own cell: exit code 0 is healthy."""
        cell = self._cell + CHECK_CELL_SUFFIX
        loop = asyncio.get_running_loop()
        try:
            handle = self._spawn(cell, command)
        except OSError as error:
            return f"{command[0]}: {error.strerror}"
        ended = asyncio.Event()
        loop.add_reader(handle.descriptor, ended.set)
        try:
            await ended.wait()
            status = self._reap(handle, os.WNOWAIT)
        finally:
            await end_cell(self._containment, cell)
            await ended.wait()
            loop.remove_reader(handle.descriptor)
            self._reap(handle)
            handle.close()
        return "" if status.code == 0 else f"{command[0]}: {status}"

    async def _bound_output(self) -> None:
        while True:
            await asyncio.sleep(OUTPUT_POLL_S)
            self._cut_output()

    def _cut_output(self) -> None:
        try:
            self._output.cut()
        except OSError as error:
            self._surroundings.note("output-unbounded", f"{self._output.path}: {error.strerror}")
