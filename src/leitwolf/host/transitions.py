"""States of a resource on this node, as a table.

::

    offline --ordered-start--> online-pending --started--> online
    online  --ordered-stop---> offline-pending --stopped--> offline
    anything but offline --failed--> failed
    failed  --ordered-start--> online-pending, --ordered-stop--> offline-pending
"""

from __future__ import annotations

from enum import StrEnum

from leitwolf.model.errors import InvariantError
from leitwolf.model.ids import ResourceState

__all__ = ["TRANSITIONS", "Happening", "follow"]


class Happening(StrEnum):
    """What may happen to a resource."""

    ORDERED_START = "ordered-start"
    STARTED = "started"
    ORDERED_STOP = "ordered-stop"
    STOPPED = "stopped"
    FAILED = "failed"


_OFFLINE, _STARTING = ResourceState.OFFLINE, ResourceState.ONLINE_PENDING
_ONLINE, _STOPPING = ResourceState.ONLINE, ResourceState.OFFLINE_PENDING
_FAILED = ResourceState.FAILED

TRANSITIONS: dict[tuple[ResourceState, Happening], ResourceState] = {
    (_OFFLINE, Happening.ORDERED_START): _STARTING,
    (_FAILED, Happening.ORDERED_START): _STARTING,
    (_STARTING, Happening.STARTED): _ONLINE,
    (_STARTING, Happening.ORDERED_STOP): _STOPPING,
    (_ONLINE, Happening.ORDERED_STOP): _STOPPING,
    (_FAILED, Happening.ORDERED_STOP): _STOPPING,
    (_STOPPING, Happening.STOPPED): _OFFLINE,
    (_STARTING, Happening.FAILED): _FAILED,
    (_ONLINE, Happening.FAILED): _FAILED,
    (_STOPPING, Happening.FAILED): _FAILED,
    (_FAILED, Happening.FAILED): _FAILED,
}
"""Every transition there is; a pair that is missing cannot happen."""


def follow(state: ResourceState, happening: Happening) -> ResourceState:
    """Return the state after ``happening``.

    Raises:
        InvariantError: that cannot happen in this state.
    """
    try:
        return TRANSITIONS[state, happening]
    except KeyError:
        raise InvariantError(f"{happening} cannot happen to a resource that is {state}") from None
