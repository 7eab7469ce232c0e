"""Which reports of the host become lines of the log although no state changes."""

from __future__ import annotations

import msgspec

from leitwolf.daemon.notes import Notes
from leitwolf.model.ids import GroupId, NodeId, ResourceId, ResourceState
from leitwolf.model.observations import ResourceReport
from leitwolf.model.quorum import Acceptor, AcceptorId

ONLINE = ResourceReport(
    resource=ResourceId("web-ip"),
    group=GroupId("web"),
    lease=1,
    generation=3,
    attempt=0,
    state=ResourceState.ONLINE,
    code="started",
    text="",
)
CONFLICT = msgspec.structs.replace(ONLINE, code="address-conflict", text="192.0.2.9 is claimed")


def test_a_conflict_under_way_is_told_once() -> None:
    """The state stays online: no entry would ever tell; a repetition tells nothing new."""
    notes = Notes()
    assert notes.news(ONLINE) == ""
    assert notes.news(CONFLICT) == "web-ip: 192.0.2.9 is claimed [address-conflict]"
    assert notes.news(CONFLICT) == ""


def test_a_change_of_state_is_told_by_its_own_entry() -> None:
    """Also when its code is new."""
    notes = Notes()
    notes.news(ONLINE)
    failed = msgspec.structs.replace(ONLINE, state=ResourceState.FAILED, code="exited")
    assert notes.news(failed) == ""
    assert notes.news(msgspec.structs.replace(ONLINE, attempt=1, code="adopted")) == ""


def test_the_first_report_of_a_resource_is_no_news() -> None:
    """A daemon that starts hears what has long been known."""
    assert Notes().news(CONFLICT) == ""


def test_lasting_faults_of_a_disk_are_told_once() -> None:
    """One that passes by itself is told by nobody; another code is news."""
    notes = Notes()
    disk = Acceptor(
        id=AcceptorId(NodeId(60_000), "s"), kind="disk", location="/dev/quorum", slots=8
    )
    assert notes.faults({60_000: "witness-unreachable: path lost"}, [disk]) == []
    assert notes.faults({60_000: "witness-rolled-back: x"}, [disk]) == [
        "disk /dev/quorum: witness-rolled-back: x"
    ]
    assert notes.faults({60_000: "witness-rolled-back: y"}, [disk]) == []
    assert notes.faults({60_000: "witness-foreign: z"}, [disk])
    assert notes.faults({60_001: "witness-foreign: z"}, [disk]) == []


def test_what_was_repaired_is_told() -> None:
    """Not when it only is not refused any more: it must have done something."""
    notes = Notes()
    share = Acceptor(id=AcceptorId(NodeId(60_000), "s"), kind="object", location="share:/mnt/w")
    refused = {60_000: "witness-unfit: reads are stale"}
    assert notes.faults({}, [share], {60_000}) == []
    assert notes.faults(refused, [share]) == ["object share:/mnt/w: " + refused[60_000]]
    assert notes.faults({60_000: "witness-unreachable: gone"}, [share]) == []
    assert notes.faults({}, [share], {60_001}) == []
    assert notes.faults({}, [share], {60_000}) == ["object share:/mnt/w counts again"]
    assert notes.faults({}, [share], {60_000}) == []
    assert len(notes.faults(refused, [share])) == 1
