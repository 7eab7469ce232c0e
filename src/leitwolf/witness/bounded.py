"""A time limit for calls that have none: of a hanging mount, a resolver, a slow reply.

The call is made by a thread of its own. When the time is over, the caller gets an error and goes
on; the thread stays where it hangs (no thread can be ended from outside) and what it does may
still happen later (A4). Until it comes back, further calls fail without being begun.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from leitwolf.model.errors import WitnessError
from leitwolf.ports.witness import RemovableCas, Versioned

__all__ = ["Bounded"]

T = TypeVar("T")

_CLOSE_S = 1.0


class _Job(Generic[T]):
    def __init__(self, step: Callable[[], T]) -> None:
        self._step = step
        self.done = threading.Event()
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._results.append(self._step())
        except BaseException as error:  # noqa: BLE001 — raised again where the call was made
            self._error = error

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._results[0]


class Bounded:
    """A :class:`RemovableCas` whose calls return or fail in time.

    Args:
        inner: what does the work; used by one thread at a time, and opened by its first call.
        timeout_s: seconds for one call.
        what: location, for errors.
    """

    def __init__(self, inner: RemovableCas, *, timeout_s: float, what: str) -> None:
        self._inner = inner
        self._timeout_s = timeout_s
        self._what = what
        self._free = threading.Semaphore()
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False

    def get(self) -> Versioned | None:
        """Return the newest value, see :class:`leitwolf.ports.witness.Cas`."""
        return self._call(self._inner.get)

    def put(self, data: bytes, expected: str | None) -> str | None:
        """Replace the value, see :class:`leitwolf.ports.witness.Cas`."""
        return self._call(lambda: self._inner.put(data, expected))

    def remove(self) -> None:
        """Remove the value, see :class:`leitwolf.ports.witness.RemovableCas`."""
        self._call(self._inner.remove)

    def close(self) -> None:
        """Release everything; waits a second at most for a call that hangs."""
        if not self._closed:
            self._closed = True
            if self._thread is None:
                self._inner.close()
            else:
                self._jobs.put(None)
                self._thread.join(min(self._timeout_s, _CLOSE_S))

    @property
    def over(self) -> bool:
        """Whether nothing is on its way any more, after :meth:`close`."""
        return self._thread is None or not self._thread.is_alive()

    def _call(self, step: Callable[[], T]) -> T:
        if self._closed:
            raise WitnessError(f"{self._what} is closed")
        deadline = time.monotonic() + self._timeout_s
        if not self._free.acquire(timeout=self._timeout_s):
            raise self._late("a call before this one still hangs; this one was not begun")
        job = _Job(step)
        if self._thread is None:
            # A daemon thread: one that hangs in the kernel must not hold up the end of the process.
            self._thread = threading.Thread(target=self._work, name="witness", daemon=True)
            self._thread.start()
        self._jobs.put(job)  # type: ignore[arg-type]  # only run and done are used over there
        if not job.done.wait(max(0.0, deadline - time.monotonic())):
            raise self._late("no answer; what was asked may still happen")
        return job.result()

    def _late(self, text: str) -> WitnessError:
        return WitnessError(
            f"{self._what}: {text} (limit {self._timeout_s:g} s)", code="witness-unreachable"
        )

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            self._free.release()
            job.done.set()
        self._inner.close()
