"""What the parts of the lease machine share: the page, the clock reading, the effects of a step."""

from __future__ import annotations

from typing import Any

from leitwolf.core.lease import profile
from leitwolf.core.lease.effects import LeaseEffect, Tell, WritePage
from leitwolf.core.rules import Rules
from leitwolf.wire.ballot import Now
from leitwolf.wire.guard import Configure, GuardReport, Recorded
from leitwolf.wire.page import LeasePage

__all__ = ["NEVER", "PROMISE_NS_MAX", "LeaseError", "Ledger"]

NEVER = 1 << 62
"""An instant that does not come: 146 years of uptime."""
PROMISE_NS_MAX = 60_000_000_000
"""Longest promise or run-lease believed from another node; the longest profile has 5 s."""


class LeaseError(Exception):
    """The guard's own state or its daemon's orders contradict themselves: the guard must end."""


class Ledger:
    """Page, time and effects of the step under way.

    A changed page is put before the next effect (``page-before-ack``): what an effect tells others
    is true in the page before they hear it.
    """

    def __init__(self, page: LeasePage, incarnation: int, now: Now, rules: Rules) -> None:
        self.page = page
        self.incarnation = incarnation
        self.now = now
        self.raw = now.raw
        """CLOCK_MONOTONIC_RAW of this step, in ns."""
        self.rules = rules
        self.configuration: Configure | None = None
        self.apart: tuple[int, ...] = ()
        """Configured nodes with which the daemon of this node has no stream."""
        self._effects: list[LeaseEffect] = []
        self._written: LeasePage | None = None

    @property
    def drift(self) -> int:
        """BOOTTIME - RAW of this step, in ns; it moves when the machine sleeps (L1)."""
        return self.now.boot - self.now.raw

    def begin(self, now: Now) -> None:
        """Start a step.

        Raises:
            LeaseError: the clock went backwards.
        """
        if now.raw < self.raw:
            raise LeaseError(f"CLOCK_MONOTONIC_RAW went back from {self.raw} to {now.raw}")
        self.now = now
        self.raw = now.raw

    def change(self, **fields: Any) -> None:
        """Change fields of the page; it is written before the next effect."""
        self.page = self.page._replace(**fields)

    def emit(self, effect: LeaseEffect) -> None:
        """Append an effect, the changed page before it."""
        if self.rules.holds("page-before-ack"):
            self._write()
        self._effects.append(effect)

    def tell(self, report: GuardReport) -> None:
        """Tell the daemon."""
        self.emit(Tell(report))

    def record(self, code: str, detail: str) -> None:
        """Tell the daemon a line for the local recorder."""
        self.tell(Recorded(self.raw, code, detail))

    def finish(self) -> list[LeaseEffect]:
        """Return the effects of the step."""
        self._write()
        effects, self._effects = self._effects, []
        return effects

    def held(self, duration: int) -> int:
        """As :func:`leitwolf.core.lease.profile.held`, under the rule ``rates``."""
        return profile.held(duration) if self.rules.holds("rates") else duration

    def awaited(self, duration: int) -> int:
        """As :func:`leitwolf.core.lease.profile.awaited`, under the rule ``rates``."""
        return profile.awaited(duration) if self.rules.holds("rates") else duration

    def _write(self) -> None:
        if self.page is not self._written and self.page != self._written:
            self._effects.append(WritePage(self.page))
            self._written = self.page
