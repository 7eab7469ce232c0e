"""Output of a managed process: a file of bounded size, never a pipe.

A pipe would tie the process to whoever reads it: a host that dies would end (SIGPIPE) or stall
what it runs. So the process appends to a file by itself (O_APPEND), and the host cuts the file
when it grows: the last bytes move to one old part, then the file is truncated to nothing, and
O_APPEND lets the process go on at the start. What is written between copy and cut is lost.
"""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["OUTPUT_POLL_S", "BoundedOutput"]

OUTPUT_POLL_S = 1.0
"""How often the size is looked at: one stat per process and second. Between two looks a file may
grow beyond its bound by what the process writes in that time."""


class BoundedOutput:
    """The output file of one resource and its old part, together at most ``bytes_max``.

    Args:
        path: the file that the process appends to; the old part is ``path`` + ``.1``.
        bytes_max: bound of both together, at least 2.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.path = path
        self.old = path.with_name(path.name + ".1")
        self._part_bytes_max = bytes_max // 2

    def open(self) -> int:
        """Return a descriptor for the process to write to; the caller closes it.

        Raises:
            OSError: the directory cannot be written.
        """
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(self.path, flags, 0o640)

    def cut(self) -> bool:
        """Move what was written to the old part when the bound is reached; tell whether it was.

        Raises:
            OSError: the disk is full or broken; the process itself is not affected.
        """
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return False
        if size <= self._part_bytes_max:
            return False
        with self.path.open("r+b") as source, self.old.open("wb") as target:
            source.seek(size - self._part_bytes_max)
            # the process may append while this copies: the bound holds all the same
            target.write(source.read(self._part_bytes_max))
            source.truncate(0)
        return True
