"""Entry of the guard: forked by the keeper, or by hand with ``python -m leitwolf.guard.main``."""

from __future__ import annotations

import os
import sys

from leitwolf.guard.process import GuardProcess
from leitwolf.system import realtime
from leitwolf.system.settings import Settings, SettingsError

__all__ = ["main", "serve"]

_EXIT_USAGE = 2
_EXIT_FAILED = 70


def serve(settings: Settings, keeper: int) -> int:
    """Run the guard in this process.

    Args:
        settings: of the node.
        keeper: process that watches over this one, 0: none.

    Returns:
        Exit code: 0 after an orderly end or a handing over, 70 after an error.
    """
    if settings.realtime == "auto":
        # From the first moment on: a guard that comes back on a busy node has a lease to save.
        realtime.schedule(realtime.GUARD_PRIORITY, threads=True)
    try:
        return GuardProcess(settings, keeper).run()
    except Exception:  # noqa: BLE001  # the process ends, with the reason where its starter sees it
        import traceback  # noqa: PLC0415  # costs 7 ms, and almost never happens

        sys.stderr.write(f"leitwolf guard: {traceback.format_exc()}")
        return _EXIT_FAILED


def main() -> int:
    """Run the guard with the settings of the environment; return the exit code."""
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"leitwolf guard: {error}\n")
        return _EXIT_USAGE
    settings.runtime.mkdir(mode=0o755, parents=True, exist_ok=True)
    return serve(settings, 0)


if __name__ == "__main__":
    sys.exit(main())
