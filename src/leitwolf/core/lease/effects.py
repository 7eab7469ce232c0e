"""Events into and effects out of the lease machine (:mod:`leitwolf.core.lease`).

The driver (the guard process, or the simulator) feeds one event at a time and executes the
returned effects in their order, each finished before the next begins: a page that is written
before an acknowledgement is sent is what makes the acknowledgement true. Standard library only.

What a guard makes at every heartbeat is a tuple, which costs a third of a frozen data class. Kinds
are told apart by their class, never by comparing: tuples of different kinds may be equal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from leitwolf.wire.guard import GuardCommand, GuardReport
from leitwolf.wire.heartbeat import PeerMessage
from leitwolf.wire.page import LeasePage

__all__ = [
    "ArmGate",
    "Armed",
    "Commanded",
    "DaemonGone",
    "DaemonSeen",
    "Disarm",
    "Heard",
    "LeaseEffect",
    "LeaseEvent",
    "Reboot",
    "SendPeer",
    "StopAll",
    "Stopped",
    "Tell",
    "Tick",
    "WritePage",
]

# --- events --------------------------------------------------------------------------------------


class Tick(NamedTuple):
    """Time passed; sent at or after the instant that :meth:`deadline` named."""

    daemon_progress: int
    """RAW ns of the daemon's last progress, its oldest unsynced write included; 0: none."""


class Heard(NamedTuple):
    """An authentic, fresh message of another guard came in on ``link``."""

    sender: int
    link: int
    message: PeerMessage


@dataclass(frozen=True, slots=True)
class Commanded:
    """The daemon of this node says something."""

    command: GuardCommand


@dataclass(frozen=True, slots=True)
class DaemonSeen:
    """A daemon connected (its DaemonHello follows as a command)."""


@dataclass(frozen=True, slots=True)
class DaemonGone:
    """The daemon's connection ended: its unanswered fences are void."""


class Armed(NamedTuple):
    """The kernel's lease was armed (or could not be): begun at ``begun``, done at ``done``."""

    lease: int
    until: int
    begun: int
    done: int
    accepted: bool


@dataclass(frozen=True, slots=True)
class Stopped:
    """Everything under ``lease`` is confirmed stopped: cgroups empty, addresses removed."""

    lease: int


LeaseEvent = Tick | Heard | Commanded | DaemonSeen | DaemonGone | Armed | Stopped

# --- effects -------------------------------------------------------------------------------------


class WritePage(NamedTuple):
    """Write the shared page before anything that follows."""

    page: LeasePage


class SendPeer(NamedTuple):
    """Send to a node: on every link, or on one."""

    node: int
    message: PeerMessage
    link: int = -1
    """-1: every link that both have."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the daemon; dropped when none is connected."""

    report: GuardReport


@dataclass(frozen=True, slots=True)
class ArmGate:
    """Arm the kernel's lease on addresses for ``lease`` until the instant ``until``.

    ``renewal``: delete and add in one transaction, which the kernel refuses when the old element
    has run out; a first arming after :class:`LeaseOpened` adds to an empty set. The driver takes
    the element's timeout as 0.85 of what remains when it computes, deletes again when the call
    took more than a tenth of it, and reports with :class:`Armed`.
    """

    lease: int
    until: int
    renewal: bool


@dataclass(frozen=True, slots=True)
class Disarm:
    """Delete the kernel's lease now."""


@dataclass(frozen=True, slots=True)
class StopAll:
    """Kill every resource cgroup until it is empty and remove the addresses; then Stopped."""

    lease: int
    reason: str
    deadline: int
    """What cannot be confirmed by this instant ends in :class:`Reboot`."""


@dataclass(frozen=True, slots=True)
class Reboot:
    """This node cannot prove that it stopped: stop feeding the watchdog and reset it."""

    reason: str


LeaseEffect = WritePage | SendPeer | Tell | ArmGate | Disarm | StopAll | Reboot
