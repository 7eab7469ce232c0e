"""The host's own look at the lease, beside the guard's.

The guard ends everything by itself when the lease is over. The host does it as well, from the same
page: a guard that is gone longer than the lease cannot (the design's section 2).
"""

from __future__ import annotations

import asyncio

from leitwolf.host.host import Host
from leitwolf.host.permission import Permission, may_run
from leitwolf.model.errors import check
from leitwolf.system.progress import Progress

__all__ = ["LOOK_S", "watch_lease"]

LOOK_S = 0.1
"""How often the page is read at least: one reading costs 30 µs."""
_LOOK_LEAST_S = 0.001


async def watch_lease(host: Host, permission: Permission, progress: Progress) -> None:
    """Kill what no lease covers, at the latest when the lease ends; never returns.

    Args:
        host: its resources are ended.
        permission: the guard's page.
        progress: says at each pass that this host's loop turns.

    Raises:
        InvariantError: another host took office: this one must not go on.
    """
    while True:
        page, instant = permission.look()
        progress.advance(instant.raw)
        check(permission.tenure.lasts(), "another host process took office on this node")
        running = host.supervisors
        for supervisor in running:
            if reason := may_run(page, instant, supervisor.order.lease):
                supervisor.kill("lease-over", reason)
        remaining_s = LOOK_S
        if running and page is not None and page.lease:
            remaining_s = (page.lease_end - instant.raw) / 1_000_000_000
        await asyncio.sleep(min(LOOK_S, max(_LOOK_LEAST_S, remaining_s)))
