"""A time limit for calls that have none: of a disk, a hanging mount, a resolver, a slow reply.

Theory of operation
    A system call that waits for a disk cannot be given up, and no thread can be ended from outside.
    So a thread of its own makes the call, and the caller stops waiting at the limit. Until that
    thread is back, what it does may still happen (A4), and a further call is not begun: it waits,
    and fails at its own limit. So no sector has two writes in flight.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from leitwolf.model.errors import WitnessError

__all__ = ["Worker"]

T = TypeVar("T")

_CLOSE_S = 1.0


class Worker:
    """One thread that makes one call at a time."""

    def __init__(self, name: str, timeout_s: float) -> None:
        """Start the thread.

        Args:
            name: of the disk or witness, for texts.
            timeout_s: how long a caller waits.
        """
        self._name = name
        self._timeout_s = timeout_s
        self._orders: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._busy = False
        """An answer is to come: of the call under way, or of one that was given up."""
        self._closed = False
        # A daemon thread: one that hangs in the kernel must not hold up the end of the process.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while (order := self._orders.get()) is not None:
            try:
                self._answers.put((order(), None))
            except BaseException as error:  # noqa: BLE001 — it belongs to the caller
                self._answers.put((None, error))

    def run(self, order: Callable[[], T]) -> T:
        """Return what ``order`` returns, or raise what it raises.

        Raises:
            WitnessError: ``witness-unreachable``, no answer in time: the order may still be done;
                or an earlier one is not back: it was not begun. ``witness``, the worker is closed.
        """
        if self._closed:
            raise WitnessError(f"{self._name} is closed")
        deadline = time.monotonic() + self._timeout_s
        if self._busy:
            self._answer(deadline, "an earlier call is still on its way; this one was not begun")
        self._busy = True
        self._orders.put(order)
        value, error = self._answer(deadline, "no answer; what was asked may still happen")
        if error is not None:
            raise error
        return cast("T", value)

    def _answer(self, deadline: float, otherwise: str) -> tuple[Any, BaseException | None]:
        try:
            answer = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            raise WitnessError(
                f"{self._name}: {otherwise} (limit {self._timeout_s:g} s)",
                code="witness-unreachable",
            ) from None
        self._busy = False
        return answer

    @property
    def over(self) -> bool:
        """Whether the thread ended: nothing of it can happen any more."""
        return not self._thread.is_alive()

    def close(self, last: Callable[[], None]) -> None:
        """Have ``last`` done behind everything else, then end the thread; wait a second at most.

        A thread that hangs in the kernel stays there until it gets its answer. A second call does
        nothing.
        """
        if not self._closed:
            self._closed = True
            self._orders.put(last)
            self._orders.put(None)
            self._thread.join(min(self._timeout_s, _CLOSE_S))
