"""Calls with a time limit on a device whose calls have none.

Theory of operation
    A system call that waits for a disk cannot be given up. So a thread makes it, and the caller
    stops waiting at the limit. Until that thread is back, the write may still reach the disk (A4),
    and every further call is refused at once: so no sector has two writes in flight.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from leitwolf.model.errors import WitnessError

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """One thread that makes one call at a time."""

    def __init__(self, name: str, timeout_s: float) -> None:
        """Start the thread.

        Args:
            name: of the disk, for texts.
            timeout_s: how long a caller waits.
        """
        self._name = name
        self._timeout_s = timeout_s
        self._orders: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self._answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        self._late = False
        self._thread = threading.Thread(target=self._work, name=f"disk {name}", daemon=True)
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
            WitnessError: ``witness-unreachable``, no answer in time; the order may still be done.
                The same as long as an earlier order is not back.
        """
        if self._late:
            try:
                self._answers.get_nowait()
            except Empty:
                raise WitnessError(
                    f"{self._name}: an earlier command is still on its way to the disk",
                    code="witness-unreachable",
                ) from None
            self._late = False
        self._orders.put(order)
        try:
            value, error = self._answers.get(timeout=self._timeout_s)
        except Empty:
            self._late = True
            raise WitnessError(
                f"{self._name}: the disk did not answer within {self._timeout_s:g} s",
                code="witness-unreachable",
            ) from None
        if error is not None:
            raise error
        return cast("T", value)

    @property
    def over(self) -> bool:
        """Whether the thread ended: nothing of it can reach the disk any more."""
        return not self._thread.is_alive()

    def close(self, last: Callable[[], None]) -> None:
        """Have ``last`` done behind everything else, then end the thread; wait the limit at most.

        A thread that hangs in the kernel stays there until the disk answers.
        """
        self._orders.put(last)
        self._orders.put(None)
        self._thread.join(self._timeout_s)
