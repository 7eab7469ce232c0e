"""The resource-host process: ``python -m leitwolf.host.main``, settings from the environment.

SIGTERM ends the host and nothing else: what runs is left to the next host, which adopts it. To stop
resources is the daemon's order, or the end of the lease.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import sys

from leitwolf.host.channel import Channel, listen
from leitwolf.host.host import Host
from leitwolf.host.keeper import exit_status, watch_keeper
from leitwolf.host.permission import Permission, Tenure
from leitwolf.host.records import Ledger, Records
from leitwolf.host.tasks import TaskTree
from leitwolf.host.watch import watch_lease
from leitwolf.model.observations import HostReport
from leitwolf.resources import Machine, Network, load_types
from leitwolf.system import clock, containment, realtime
from leitwolf.system.gate import Gate
from leitwolf.system.page import PageReader
from leitwolf.system.progress import Flag, Progress, Role
from leitwolf.system.settings import Settings

__all__ = ["main", "serve"]


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Run the host until ``stop`` is set; resources go on running.

    Raises:
        OSError: the machine refuses what a host needs (see the message).
        InvariantError: what a former host left contradicts itself.
    """
    tasks = TaskTree()
    progress = Progress(settings.runtime / "progress.page")
    progress.begin(Role.HOST)
    boot = clock.boot_id().hex()
    folder = settings.runtime / "host"
    records = Records(folder, boot)
    tenure = Tenure(folder / "office")
    tenure.take()
    permission = Permission(PageReader(settings.runtime / "guard.page"), tenure)
    cells = containment.find(settings)
    cells.prepare()
    progress.mark(Flag.CGROUPS if cells.kind == "cgroup" else Flag(0))
    reports: list[Channel] = []

    def report(one: HostReport) -> None:
        for channel in reports:
            channel.report(one)

    machine = Machine(
        containment=cells,
        gate=Gate(),
        network=functools.cache(Network),
        output=settings.state / "output",
        tasks=tasks,
        exit_status=functools.partial(exit_status, settings.runtime / "keeper.sock"),
    )
    host = Host(machine, permission, records, Ledger(folder / "groups", boot), report)
    load_types()
    await host.adopt()
    # the records of an adopted host are garbage to nobody; what is young is collected as ever
    gc.collect()
    realtime.return_memory()
    gc.freeze()
    channel = Channel(listen(settings.runtime / "host.sock"), host.inventory, host.accept)
    reports.append(channel)
    tasks.start(watch_lease(host, permission, progress), "watch lease")
    tasks.start(watch_keeper(progress, functools.partial(_revive, settings)), "watch keeper")
    ended = tasks.start(stop.wait(), "stop", handled=True)
    failed = tasks.start(tasks.failed(), "failure", handled=True)
    await asyncio.wait({ended, failed}, return_when=asyncio.FIRST_COMPLETED)
    channel.close()
    await tasks.cancel()
    if failed.done() and not failed.cancelled():
        failed.result()


def _revive(settings: Settings) -> int:
    from leitwolf.keeper.main import revive  # noqa: PLC0415  # rarely needed

    return revive(settings)


async def _main() -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settings = Settings.load(os.environ)
    if settings.realtime == "auto":
        realtime.take_precedence(heirs=False)
    await serve(settings, stop)


def main() -> int:
    """Run the host; return its exit code."""
    asyncio.run(_main())
    return 0


if __name__ == "__main__":
    sys.exit(main())
