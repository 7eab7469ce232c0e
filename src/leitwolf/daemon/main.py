"""``python -m leitwolf.daemon.main``: the daemon process, started by the keeper."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
from pathlib import Path

from leitwolf.daemon.forming import ensure_folders
from leitwolf.daemon.service import DaemonService
from leitwolf.model.errors import LeitwolfError
from leitwolf.system import realtime
from leitwolf.system.diary import log
from leitwolf.system.progress import Progress, Role
from leitwolf.system.settings import Settings, SettingsError

__all__ = ["main"]


async def _serve(service: DaemonService, path: Path) -> None:
    """Serve the API; its import takes as long as an election, so it waits for the first one."""
    await service.life.settled()
    api = await asyncio.to_thread(importlib.import_module, "leitwolf.api")
    # A failover must not wait for a collection of everything that was imported.
    gc.collect()
    realtime.return_memory()
    gc.freeze()
    await api.serve_unix(service, path)


async def _run(settings: Settings) -> None:
    progress = Progress(settings.runtime / "progress.page")
    progress.begin(Role.DAEMON)
    service = DaemonService(settings, progress)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    replaced = False

    def replace() -> None:
        nonlocal replaced
        replaced = True
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    loop.add_signal_handler(signal.SIGHUP, replace)
    async with asyncio.TaskGroup() as tasks:
        work = [
            tasks.create_task(service.life.run()),
            tasks.create_task(_serve(service, settings.runtime / "api.sock")),
        ]
        await stopping.wait()
        if replaced:
            log.info("ending: another daemon takes over, the groups stay")
            await service.life.hand_over()
        else:
            log.info("stopping: groups move away or stop first")
            await service.life.drain()
        for task in work:
            task.cancel()


def main() -> int:
    """Run the daemon until SIGTERM; return its exit status."""
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        log.critical("wrong settings", error=str(error))
        return 2
    if settings.realtime == "auto":
        realtime.take_precedence(heirs=True)
    try:
        ensure_folders(settings)
        asyncio.run(_run(settings))
    except* LeitwolfError as group:
        os._exit(_told(group))
    return 0


def _told(error: LeitwolfError | ExceptionGroup[LeitwolfError]) -> int:
    """Tell the diary why the daemon ends, whatever groups of tasks the error came through.

    Returns:
        Its exit status: that of the last error.
    """
    if isinstance(error, LeitwolfError):
        log.critical("the daemon ends", error=error.text, code=error.code, hint=error.hint)
        return error.exit_code
    return [_told(one) for one in error.exceptions][-1]


if __name__ == "__main__":
    sys.exit(main())
