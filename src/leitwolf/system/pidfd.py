"""Processes named by descriptors, which no reuse of ids can fool. Standard library only."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

__all__ = ["ProcessHandle", "start_time"]


def start_time(process: int) -> int:
    """Return when a process started, in clock ticks after boot; with its id it names it for good.

    Raises:
        OSError: there is no such process.
    """
    # The name of the program, in parentheses, may itself hold spaces and parentheses.
    text = Path(f"/proc/{process}/stat").read_bytes()
    return int(text[text.rindex(b")") + 2 :].split()[19])


class ProcessHandle:
    """A process that is or was; ``descriptor`` becomes readable when it has ended.

    Args:
        process: id of a living process, or of a child that was not waited for.

    Raises:
        OSError: there is none (ProcessLookupError), or the kernel has no pidfd.
    """

    def __init__(self, process: int) -> None:
        self.process = process
        self.descriptor = os.pidfd_open(process)

    @classmethod
    def adopt(cls, process: int, started: int) -> ProcessHandle | None:
        """Return the process with this id and start time, None when it is gone.

        Raises:
            OSError: the kernel has no pidfd, or does not permit it.
        """
        if process <= 0:
            return None
        try:
            handle = cls(process)
        except ProcessLookupError:
            return None
        try:
            # Read after the descriptor was opened: it belongs to the same process, or that is gone.
            if start_time(process) == started and not handle.ended():
                return handle
        except (FileNotFoundError, ProcessLookupError):
            pass  # gone between the two
        handle.close()
        return None

    def ended(self) -> bool:
        """Tell whether the process has ended (a zombie has)."""
        return self.wait(0)

    def wait(self, timeout_ms: float) -> bool:
        """Wait until the process has ended, at most ``timeout_ms``; tell whether it has."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLIN)
        return bool(poll.poll(timeout_ms))

    def send(self, number: int) -> bool:
        """Send a signal; tell whether the process was still there.

        Raises:
            PermissionError: this process may not.
        """
        try:
            signal.pidfd_send_signal(self.descriptor, number)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        """Close the descriptor; the process is not touched."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
