"""What the host offers to a resource instance."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from leitwolf.model.observations import StartResource
from leitwolf.resources._network import Network
from leitwolf.system.containment import Containment
from leitwolf.system.gate import Gate

__all__ = [
    "NOT_PERMITTED",
    "ExitStatus",
    "Machine",
    "Surroundings",
    "Tasks",
]

T = TypeVar("T")
NOT_PERMITTED = "not-permitted"
"""Code of a start that found no permission on its way; its text is the reason. No failure of the
resource: the host reads the page again and starts anew or reports ``lease-over``."""


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended.

    Attributes:
        code: exit code, 0..255, or -1.
        signal: number of the signal that ended it, or 0.
    """

    code: int = -1
    signal: int = 0

    def __str__(self) -> str:
        if self.signal:
            return f"ended by signal {self.signal}"
        return f"exit code {self.code}" if self.code >= 0 else "exit status unknown"


class Tasks(Protocol):
    """The one place where tasks begin."""

    def start(
        self, work: Coroutine[Any, Any, T], name: str, *, handled: bool = False
    ) -> asyncio.Task[T]:
        """Run a coroutine beside the caller.

        Args:
            work: what to run.
            name: for messages about it.
            handled: the caller looks at the outcome. Otherwise an exception ends the host, and the
                next one adopts what runs.
        """


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine as all resources of a host share it."""

    containment: Containment
    gate: Gate
    network: Callable[[], Network]
    """The sockets that addresses share, opened when the first one asks."""
    output: Path
    """Directory of the output files."""
    tasks: Tasks
    exit_status: Callable[[int, int], Awaitable[ExitStatus]]
    """How a process (pid, start in clock ticks or 0) ended that was no child of this host: asks
    the keeper, within a second."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What one instance gets."""

    order: StartResource
    machine: Machine
    memory: Mapping[str, str]
    """What earlier instances of this start remembered; changes with ``remember``."""
    remember: Callable[[dict[str, str]], None]
    """Keep facts for ``adopt`` after a crash of the host; on disk when it returns."""
    permitted: Callable[[], str]
    """'' while the node's lease allows this resource to run, else the reason; read anew."""
    note: Callable[[str, str], None]
    """Report something (code, text) that does not change the state."""
