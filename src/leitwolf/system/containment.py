"""Cells: what is started in one cannot leave it, and all of it can be killed at once.

Rules (L7):
- Nothing runs that was not permitted. A child enters its cell, THEN reads the permission (the
  guard's page), and only then executes. The guard closes the gate in its page before it kills a
  cell, so each child falls into one of two cases: it was in the cell when the kill came, and died;
  or it entered later, reads a closed gate, and executes nothing. There is no window between, and
  that the child is outside of the cell until it enters does not matter: no foreign code runs yet.
- Stopping is: close, kill, and kill again until the cell is empty; that loop is the caller's.
- Cells survive the processes that made them, and any later one finds them by their names.

Theory of operation. :class:`CgroupContainment` makes one cgroup (version 2) per cell;
``cgroup.kill`` reaches stopped, frozen and just forking processes. Where the cgroup was given the
controller ``pids``, ``pids.max`` = 0 ends forking first. We enable no controller in it ourselves:
the kernel would refuse the service manager to put the next keeper there. For ordinary users without
a delegated cgroup, :class:`leitwolf.system.pidnamespace.PidNamespaceContainment` runs each cell
below an init of its own.

What this does not guarantee: a process frozen by the freezer of cgroup version 1, or in an
uninterruptible wait, dies only when it thaws. Until then its cell is not empty, which the guard
sees. Root can move a process out of its cgroup.

Standard library only: the guard imports this.
"""

from __future__ import annotations

import errno
import os
import signal
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NoReturn, Protocol
from urllib.parse import quote, unquote

from leitwolf.system.launch import Child, Program, SpawnRefused, become, fork_child
from leitwolf.system.pidfd import ProcessHandle
from leitwolf.system.settings import Settings

__all__ = [
    "CgroupContainment",
    "Child",
    "Containment",
    "ContainmentUnavailable",
    "Program",
    "SpawnRefused",
    "cell_file_name",
    "cell_of_file_name",
    "cells_in",
    "find",
    "own_cgroup",
]

_SUFFIX: Final = ".cell"
_NAME_BYTES_MAX: Final = 240
_UNIFIED = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
_GONE = (errno.ENOENT, errno.ENODEV)
"""A cgroup that is not there, and one that was removed between open and read."""
_KILL_PASSES: Final = 16
"""Without ``cgroup.kill``: a fork can outrun one pass; the caller's loop goes on after these."""


class ContainmentUnavailable(OSError):
    """This machine lets this user neither make cgroups nor PID namespaces."""


class Containment(Protocol):
    """Cells by name; a name is any text up to 240 bytes when its odd characters are escaped.

    Methods for a cell that does not exist do nothing, except :meth:`spawn`, which makes it.
    """

    kind: str
    """``cgroup`` or ``pidns``."""

    def prepare(self) -> None:
        """Make ready what all cells need; once per start of a node, before the first spawn.

        Raises:
            OSError: this user may not.
        """

    def spawn(self, cell: str, program: Program, permitted: Callable[[], bool]) -> Child:
        """Start a program in a cell; see :mod:`leitwolf.system.launch` for what it inherits.

        Args:
            cell: its name.
            program: what to execute, and as whom.
            permitted: asked in the child after it entered the cell.

        Raises:
            SpawnRefused: ``permitted`` said no; nothing was executed.
            OSError: it could not be started; the errno of the exec, if that failed.
        """

    def cells(self) -> list[str]:
        """Return the names of the cells that exist, also those that another process made."""

    def processes(self, cell: str) -> list[int]:
        """Return the pids in a cell."""

    def close(self, cell: str) -> None:
        """Let nothing fork in the cell from now on, where the kernel can do that."""

    def kill(self, cell: str) -> None:
        """Send SIGKILL to everything in the cell; repeat it until :meth:`empty`."""

    def empty(self, cell: str) -> bool:
        """Tell whether nothing runs in the cell.

        Raises:
            OSError: nobody can tell; it does not count as empty.
        """

    def remove(self, cell: str) -> None:
        """Forget an empty cell.

        Raises:
            OSError: EBUSY: it is not empty.
        """


def cell_file_name(cell: str) -> str:
    """Return the name of a cell's file or directory.

    Raises:
        ValueError: the name is empty or too long.
    """
    name = quote(cell, safe="") + _SUFFIX
    if not cell or len(name) > _NAME_BYTES_MAX:
        raise ValueError(f"no name of a cell: {cell!r}")
    return name


def cell_of_file_name(name: str) -> str | None:
    """Return the cell that a file or directory stands for, None: it stands for none."""
    return unquote(name.removesuffix(_SUFFIX)) if name.endswith(_SUFFIX) else None


def cells_in(directory: Path) -> list[str]:
    """Return the cells that files or directories stand for, in the order of their names."""
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []
    return [cell for name in names if (cell := cell_of_file_name(name)) is not None]


class CgroupContainment:
    """One cgroup per cell below ``root``, which is made when it is not there.

    Args:
        root: directory in a mounted cgroup2 file system; this user may write to its parent.
    """

    kind = "cgroup"

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the root; pass the controller ``pids`` on to the cells if it has it."""
        self.root.mkdir(parents=True, exist_ok=True)
        if "pids" in _words(self.root / "cgroup.controllers"):
            _write(self.root / "cgroup.subtree_control", "+pids")

    def spawn(self, cell: str, program: Program, permitted: Callable[[], bool]) -> Child:
        """Start a program in a cell, see :meth:`Containment.spawn`."""
        path = self._path(cell)
        path.mkdir(exist_ok=True)
        _write_where_there(path / "pids.max", "max")

        def main(writing: int) -> NoReturn:
            become(program, writing, lambda: _write(path / "cgroup.procs", "0"), permitted)

        return fork_child(program.argv[0], main)

    def cells(self) -> list[str]:
        """Return the names of the cells that exist."""
        return cells_in(self.root)

    def processes(self, cell: str) -> list[int]:
        """Return the pids in a cell, those in cgroups below it included."""
        found: list[int] = []
        for path in self._tree(cell):
            found += _numbers(path / "cgroup.procs")
        return found

    def close(self, cell: str) -> None:
        """Set ``pids.max`` to 0 where there is that controller."""
        for path in self._tree(cell):
            _write_where_there(path / "pids.max", "0")

    def kill(self, cell: str) -> None:
        """Send SIGKILL to everything in the cell."""
        path = self._path(cell)
        if not _write_where_there(path / "cgroup.kill", "1"):
            self._kill_each(cell)

    def _kill_each(self, cell: str) -> None:
        """Kill one by one, for kernels before 5.14."""
        for _ in range(_KILL_PASSES):
            handles: list[ProcessHandle] = []
            for pid in self.processes(cell):
                try:
                    handles.append(ProcessHandle(pid))
                except ProcessLookupError:
                    continue  # it ended meanwhile
            # A descriptor opened in time names a process that is still in the cell now.
            still = set(self.processes(cell))
            for handle in handles:
                if handle.process in still:
                    handle.send(signal.SIGKILL)
                handle.close()
            if not still:
                return

    def empty(self, cell: str) -> bool:
        """Tell whether nothing runs in the cell or below it."""
        words = _words(self._path(cell) / "cgroup.events")
        return not words or words[words.index("populated") + 1] == "0"

    def remove(self, cell: str) -> None:
        """Remove the cgroup with those below it."""
        for path in reversed(list(self._tree(cell))):
            try:
                path.rmdir()
            except FileNotFoundError:
                continue

    def _path(self, cell: str) -> Path:
        return self.root / cell_file_name(cell)

    def _tree(self, cell: str) -> Iterator[Path]:
        """Yield the cell's cgroup and all below it, parents first."""
        for directory, _, _ in os.walk(self._path(cell)):
            yield Path(directory)


def _words(path: Path) -> list[str]:
    """Return the words of a cgroup file, none when the cgroup is gone."""
    try:
        return path.read_text().split()
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return []


def _numbers(path: Path) -> list[int]:
    try:
        return [int(word) for word in _words(path)]
    except OSError as error:
        # Below a threaded cgroup; its processes stand in the parent's file.
        if error.errno != errno.EOPNOTSUPP:
            raise
        return []


def _write(path: Path, text: str) -> None:
    # A single write, and no creation: what is not there is an error.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _write_where_there(path: Path, text: str) -> bool:
    """Write to a cgroup file; False: there is none, or the cgroup is gone."""
    try:
        _write(path, text)
    except OSError as error:
        if error.errno not in _GONE:
            raise
        return False
    return True


def own_cgroup() -> Path | None:
    """Return the cgroup (version 2) of this process, None when there is no such hierarchy."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if not line.startswith("0::/"):
            continue
        for mount in _UNIFIED:
            path = mount / line.removeprefix("0::/")
            if (path / "cgroup.procs").exists():
                return path
    return None


def _usable(base: Path | None) -> bool:
    return base is not None and all(
        os.access(path, os.W_OK) for path in (base, base / "cgroup.procs")
    )


def find(settings: Settings) -> Containment:
    """Return the containment of a node; the same settings always give the same cells.

    ``auto`` takes cgroups where this user may make them (root, or a delegated cgroup), else PID
    namespaces. Nodes that share a machine differ in their runtime directories, so in their cells.

    Raises:
        ContainmentUnavailable: ``cgroup`` is wanted and cannot be.
    """
    base = settings.cgroup or own_cgroup()
    node = "leitwolf"
    if settings.runtime != Settings().runtime:
        node += f"-{zlib.crc32(os.fsencode(settings.runtime)):08x}"
    if settings.containment != "pidns" and base is not None and _usable(base):
        return CgroupContainment(base / node)
    if settings.containment == "cgroup" or (
        settings.cgroup is not None and settings.containment != "pidns"
    ):
        raise ContainmentUnavailable(
            errno.EACCES,
            "this user may not make cgroups (version 2) there: delegate one "
            "(Delegate=yes in the unit), or set LEITWOLF_CONTAINMENT=pidns",
            str(base or _UNIFIED[0]),
        )
    from leitwolf.system.pidnamespace import PidNamespaceContainment  # noqa: PLC0415  # rare

    return PidNamespaceContainment(settings.runtime / "cells")
