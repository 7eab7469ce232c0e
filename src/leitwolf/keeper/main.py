"""Entry of the keeper: ``leitwolf run``, or ``python -m leitwolf.keeper.main``."""

from __future__ import annotations

import errno
import os
import sys

from leitwolf.keeper.process import RELOAD_VARIABLE, Keeper, KeeperRunning
from leitwolf.system.containment import ContainmentUnavailable
from leitwolf.system.notify import VARIABLES
from leitwolf.system.page import NotVolatile
from leitwolf.system.settings import Settings, SettingsError

__all__ = ["main", "revive", "run"]

_EXIT_USAGE = 2
_EXIT_CONFLICT = 4
_SHELL = "/bin/sh"


def run(settings: Settings) -> int:
    """Keep this node until it is told to stop.

    Args:
        settings: of the node.

    Returns:
        Exit code: 0 after an orderly stop, 2 when the settings do not fit the machine, 4 when
        another keeper runs, 70 when the node could not prove that it stopped.
    """
    try:
        return Keeper(settings).run()
    except KeeperRunning as error:
        sys.stderr.write(f"leitwolf: {error.code}: {error}\n")
        return _EXIT_CONFLICT
    except NotVolatile as error:
        sys.stderr.write(f"leitwolf: {error.code}: {error}\n")
        return _EXIT_USAGE
    except ContainmentUnavailable as error:
        sys.stderr.write(f"leitwolf: containment-unavailable: {error}\n")
        return _EXIT_USAGE


def revive(settings: Settings) -> int:
    """Start a keeper that is nobody's child; it ends at once when there is one already.

    For a host that finds its keeper dead and no other one in its place.

    Returns:
        Its process.

    Raises:
        OSError: no process can be made.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in (*VARIABLES, RELOAD_VARIABLE)
    }
    environment.update(settings.environment())
    # The shell starts it and ends at once, so that it goes to the init of the machine.
    script = '"$@" >&2 & echo $!'
    arguments = [_SHELL, "-c", script, _SHELL, sys.executable, "-m", "leitwolf.keeper.main"]
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as said:
        try:
            shell = os.posix_spawn(
                _SHELL,
                arguments,
                environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1)],
                setsid=True,
                setsigmask=(),
            )
        finally:
            os.close(writing)  # a shell that ends without a word is not waited for
        os.waitpid(shell, 0)
        process = said.readline().strip()
    if not process:
        raise OSError(errno.EAGAIN, f"{_SHELL} started no keeper")
    return int(process)


def main() -> int:
    """Keep the node of the environment's settings; return the exit code."""
    try:
        settings = Settings.load(os.environ)
    except SettingsError as error:
        sys.stderr.write(f"leitwolf: {error.code}: {error}\n")
        return _EXIT_USAGE
    return run(settings)


if __name__ == "__main__":
    sys.exit(main())
