"""Stopping everything on this node, by a thread of the guard that needs nobody else (L7).

Every cell is closed and killed, again until it is empty; then the virtual addresses are removed;
then both are looked at once more. Only what was seen empty counts as stopped. The gate in the page
was closed before, so nothing starts any more: what enters a cell later reads a closed gate.

It does not give up: what cannot be confirmed by the deadline ends the node, which the lease machine
decides.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from leitwolf.core.lease.effects import StopAll, Stopped
from leitwolf.system import clock
from leitwolf.system.rtnetlink import NodeAddress
from leitwolf.wire.guard import Recorded

__all__ = ["CellsPort", "Stopper"]

_AGAIN_FIRST_S = 0.000_5
_AGAIN_LAST_S = 0.008
"""The killed vanish within a millisecond or two; those in a slow wait are asked less often."""


class CellsPort(Protocol):
    """What is needed of :mod:`leitwolf.system.containment`."""

    def cells(self) -> Iterable[str]:
        """Return those that exist."""
        ...

    def close(self, cell: str) -> None:
        """Let nothing fork in it."""
        ...

    def kill(self, cell: str) -> None:
        """Kill everything in it."""
        ...

    def empty(self, cell: str) -> bool:
        """Tell whether nothing runs in it."""
        ...


class Stopper:
    """The thread. Results are there when ``descriptor`` is readable: see :meth:`results`.

    Args:
        cells: what contains the processes of resources.
        addresses: returns the virtual addresses that this node has.
        remove: removes one of them.
    """

    def __init__(
        self,
        cells: CellsPort,
        addresses: Callable[[], Iterable[NodeAddress]],
        remove: Callable[[int, str, int], object],
    ) -> None:
        self._cells = cells
        self._addresses = addresses
        self._remove = remove
        self._condition = threading.Condition()
        self._wanted: StopAll | None = None
        self._ended = False
        self._trouble = ""
        self._results: deque[Stopped | Recorded] = deque()
        self.descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="stopper", daemon=True)

    def start(self) -> None:
        """Begin to wait for orders."""
        self._thread.start()

    def stop(self, order: StopAll) -> None:
        """Stop everything; answered by :class:`Stopped` among the results.

        An order that comes while another is carried out is carried out after it.
        """
        with self._condition:
            self._wanted = order
            self._condition.notify()

    def hurry(self) -> None:
        """Somebody says that all is stopped: look at once."""
        with self._condition:
            self._condition.notify()

    def results(self) -> list[Stopped | Recorded]:
        """Return what came since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.descriptor)
        found = []
        while self._results:
            found.append(self._results.popleft())
        return found

    def end(self) -> None:
        """End the thread, also in the middle of an order."""
        with self._condition:
            self._ended = True
            self._condition.notify()
        self._thread.join()

    # --- in the thread ---------------------------------------------------------------------------

    def _tell(self, result: Stopped | Recorded) -> None:
        self._results.append(result)
        os.eventfd_write(self.descriptor, 1)

    def _run(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._ended or self._wanted is not None)
                order, self._wanted = self._wanted, None
                if self._ended:
                    return
            if order is not None and self._carry_out():
                self._tell(Stopped(order.lease))

    def _carry_out(self) -> bool:
        """Repeat until everything is seen stopped; False: this thread was ended before."""
        again_s = _AGAIN_FIRST_S
        self._trouble = ""
        while not self._attempt():
            with self._condition:
                if self._ended:
                    return False
                self._condition.wait(again_s)
            again_s = min(2 * again_s, _AGAIN_LAST_S)
        return True

    def _attempt(self) -> bool:
        """Close, kill and remove once; tell whether nothing was left of either."""
        clean = True
        try:
            cells = list(self._cells.cells())
        except OSError as error:
            self._note("cells", error)
            return False
        for cell in cells:
            clean = self._kill(cell) and clean
        if not clean:
            return False
        try:
            addresses = list(self._addresses())
            for one in addresses:
                self._remove(one.interface, one.address, one.prefix)
        except OSError as error:
            self._note("addresses", error)
            return False
        # Clean is only what was seen clean: after a removal everything is looked at again.
        return not addresses

    def _kill(self, cell: str) -> bool:
        try:
            if self._cells.empty(cell):
                return True
            self._cells.close(cell)
            self._cells.kill(cell)
            return self._cells.empty(cell)
        except OSError as error:
            self._note(cell, error)
            return False

    def _note(self, what: str, error: OSError) -> None:
        """Record a trouble once per order; it is tried again until the deadline ends the node."""
        text = f"{what}: {error}"
        if text != self._trouble:
            self._trouble = text
            self._tell(Recorded(clock.raw_ns(), "stop-failed", text))
