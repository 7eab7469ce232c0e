"""A simulated process: it dies, stalls and freezes apart from the others of its node."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from contextlib import suppress

__all__ = ["Died", "Process"]


class Died(BaseException):  # nobody may handle it as an error
    """The process died in the midst of its work; what it did not do yet is never done."""


class Process(ABC):
    """Liveness of one process; work for it waits while it stands still and dies with it."""

    back_ns = 0
    """Usual time from its end until another one works, when the keeper starts that at once."""

    def __init__(
        self,
        name: str,
        clock: Callable[[], int],
        dies_now: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """Begin dead.

        Args:
            name: of the process.
            clock: true time, ns.
            dies_now: draws whether the process of this name dies before its next effect.
        """
        self.name = name
        self._clock = clock
        self._dies_now = dies_now
        self.dies_before: Callable[[str], bool] | None = None
        """The first effect of which this holds is not done any more; then it is forgotten."""
        self.runs_since = 0
        """Since when it runs without a pause."""
        self.alive = False
        self.life = 0
        """Counts its lives: work for an earlier one is void."""
        self.holds = 0
        """Reasons for which it stands still; it runs while there is none."""
        self._waiting: deque[tuple[int, Callable[..., None], tuple[object, ...]]] = deque()

    @property
    def running(self) -> bool:
        """It is alive and nothing holds it."""
        return self.alive and not self.holds

    def runs_for(self, now: int, duration: int) -> bool:
        """Return whether it runs, and has for more than ``duration`` ns without a pause."""
        return self.alive and not self.holds and now - self.runs_since > duration

    @abstractmethod
    def begin(self) -> None:
        """Start, if none is alive and the machine runs."""

    def start(self) -> None:
        """Begin a new life."""
        self.alive = True
        self.holds = 0
        self.life += 1
        self.runs_since = self._clock()
        self._waiting.clear()

    @abstractmethod
    def perish(self, why: str = "killed") -> None:
        """Die alone, if it lives; ``why`` is for the trace."""

    def about_to(self, effect: str) -> None:
        """Say that an effect is next: this may be where the process dies.

        Raises:
            Died: it did. Only work that :meth:`do` or :meth:`deliver` began may get here.
        """
        if self.dies_before is not None and self.dies_before(effect):
            self.dies_before = None
        elif not self._dies_now(self.name):
            return
        self.perish(f"dies before: {effect}")
        raise Died

    def do(self, work: Callable[..., None], *arguments: object) -> None:
        """Do work to its end, or up to the effect before which the process dies."""
        with suppress(Died):
            work(*arguments)

    def kill(self) -> None:
        """End this life; what waited for it is lost."""
        self.alive = False
        self._waiting.clear()

    def deliver(self, life: int, work: Callable[..., None], *arguments: object) -> None:
        """Do work of this life now, or when the process runs again."""
        if not self.alive or life != self.life:
            return
        if self.holds:
            self._waiting.append((life, work, arguments))
        else:
            self.do(work, *arguments)

    def hold(self) -> int:
        """Stand still for one more reason; return the life to be named to :meth:`release`."""
        self.holds += 1
        return self.life

    def release(self, life: int) -> None:
        """One reason less of this life; when none is left, do what waited, in order."""
        if life != self.life or not self.alive or not self.holds:
            return
        self.holds -= 1
        if not self.holds:
            self.runs_since = self._clock()
        while self._waiting and not self.holds and self.alive:
            work_life, work, arguments = self._waiting.popleft()
            if work_life == self.life:
                self.do(work, *arguments)
