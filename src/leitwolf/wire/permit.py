"""What the guard's page permits its readers: to start something (L7), to speak as leader (L2).

Standard library only.
"""

from __future__ import annotations

from leitwolf.wire.ballot import NO_BALLOT, Now
from leitwolf.wire.page import LeasePage

__all__ = ["SLEPT_NS", "believed", "leads", "may_start", "slept"]

SLEPT_NS = 5_000_000
"""L1: BOOTTIME - RAW moved further than this since the last renewal: the machine slept."""


def slept(page: LeasePage, instant: Now) -> bool:
    """Return whether the machine slept since a lease was renewed: then every one is over (L1)."""
    return abs(instant.boot - instant.raw - page.drift) > SLEPT_NS


def believed(page: LeasePage, instant: Now) -> LeasePage:
    """Return what a reader may believe of a page: no lease of before a sleep (L1).

    The guard closes them as soon as it runs; until then the page still shows them, and RAW, which
    stood still, has not reached their ends. Promises only last longer by a sleep: they stay.

    Args:
        page: as just read.
        instant: both clocks, read after the page.
    """
    if not slept(page, instant):
        return page
    return page._replace(gate=False, lease_end=0, leader_end=0)


def leads(page: LeasePage | None, instant: Now) -> bool:
    """Return whether this node holds a valid leader lease (L1, L2).

    Args:
        page: the guard's page as just read, None when it cannot be read or is not of this boot.
        instant: both clocks, read after the page: a guard that stands still cannot close its lease.
    """
    if page is None or page.office == NO_BALLOT or instant.raw >= page.leader_end:
        return False
    return not slept(page, instant)


def may_start(page: LeasePage | None, raw: int, lease: int) -> str:
    """Return "" when a resource ordered under ``lease`` may be started, else why not.

    Args:
        page: the guard's page as just read, None when it cannot be read or is not of this boot.
        raw: CLOCK_MONOTONIC_RAW now, ns.
        lease: id of the run-lease named in the order.

    Returns:
        ``""``, ``no-page``, ``not-configured``, ``gate-closed``, ``other-lease``, ``lease-ending``
        (less than K is left) or ``guard-stalled`` (no progress for 2 H).
    """
    if page is None:
        return "no-page"
    if not page.configured:
        return "not-configured"
    if not page.gate or not page.lease:
        return "gate-closed"
    if page.lease != lease:
        return "other-lease"
    if raw >= page.lease_end - page.kill:
        return "lease-ending"
    if raw - page.progress >= 2 * page.heartbeat:
        return "guard-stalled"
    return ""
