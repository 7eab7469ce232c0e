"""A timer in a descriptor, for poll loops that need better than milliseconds (timerfd).

``os.timerfd_create`` exists from Python 3.13 on only. Standard library only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time

__all__ = ["Timer"]

_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC
_SPEC = struct.Struct("@qqqq")


class Timer:
    """Becomes readable after a while.

    Raises:
        OSError: the kernel gives none.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._library.timerfd_create(time.CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, delay: int) -> None:
        """Ring in ``delay`` ns; what was set before is forgotten, an unread ring too."""
        seconds, rest = divmod(max(delay, 1), 1_000_000_000)
        spec = _SPEC.pack(0, 0, seconds, rest)
        if self._library.timerfd_settime(self.descriptor, 0, spec, None) != 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def close(self) -> None:
        """Give the descriptor back."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
