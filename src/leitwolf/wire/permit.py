"""May the host start something now? Read from the guard's page before and after every start (L7).

Standard library only.
"""

from __future__ import annotations

from leitwolf.wire.page import LeasePage

__all__ = ["may_start"]


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
