"""Leaving a cluster for good: everything here is stopped, then guard and host begin anew.

Guard and host remember their node, its promises and its attested generations for as long as the
machine runs. In another cluster, or as another node of the same one, all of that means nothing and
would only be in the way. This node never votes again with the storage that it leaves, so the
promises may be forgotten.
"""

from __future__ import annotations

import signal
import time
from contextlib import closing

from leitwolf.model.errors import ResourceError
from leitwolf.system.page import PageReader
from leitwolf.system.pidfd import ProcessHandle
from leitwolf.system.progress import Progress, Role
from leitwolf.system.settings import Settings

__all__ = ["begin_anew", "has_memories"]

_STOP_S = 30.0
"""The guard kills what does not end within its kill budget; this is for a machine that thrashes."""
_POLL_S = 0.01
_CONFIGURATION = "guard.configuration"
_MEMORIES = ("guard.page", _CONFIGURATION, "host/groups")


def has_memories(settings: Settings) -> bool:
    """Return whether the guard knows a cluster."""
    with closing(PageReader(settings.runtime / "guard.page")) as page:
        found = page.read()
    return found is not None and found.configured


def begin_anew(settings: Settings, progress: Progress) -> None:
    """Stop everything through the guard, forget, and have guard and host started anew. Blocks.

    Raises:
        ResourceError: the guard could not stop everything.
        OSError: a file cannot be removed.
    """
    deadline = time.monotonic() + _STOP_S
    with closing(PageReader(settings.runtime / "guard.page")) as page:
        # Without it the next guard knows no peers: nobody opens it a lease again.
        (settings.runtime / _CONFIGURATION).unlink(missing_ok=True)
        # SIGTERM: stop everything, then end. The keeper starts another, which finds nothing open.
        _end(progress, Role.GUARD, signal.SIGTERM, deadline)
        while (found := page.read()) is not None and found.lease:
            if time.monotonic() > deadline:
                raise ResourceError(
                    "the guard could not stop everything on this node", hint="reboot it"
                )
            time.sleep(_POLL_S)
    for name in _MEMORIES:
        (settings.runtime / name).unlink(missing_ok=True)
    _end(progress, Role.GUARD, signal.SIGHUP, deadline)
    _end(progress, Role.HOST, signal.SIGTERM, deadline)


def _end(progress: Progress, role: Role, number: int, deadline: float) -> None:
    """Have a process end and wait until its successor is at work."""
    former = progress.slot(role)
    handle = ProcessHandle.adopt(former.process, former.started)
    if handle is not None:
        try:
            handle.send(number)
            if not handle.wait(max(0.0, deadline - time.monotonic()) * 1000):
                raise ResourceError(f"the {role.name.lower()} does not end", hint="reboot it")
        finally:
            handle.close()
    while time.monotonic() < deadline:
        slot = progress.slot(role)
        if slot.counter and (slot.process, slot.started) != (former.process, former.started):
            return
        time.sleep(_POLL_S)
    raise ResourceError(f"no {role.name.lower()} is started again", hint="see the keeper's log")
