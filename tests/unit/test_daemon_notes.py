"""Which reports of the host become lines of the log although no state changes."""

from __future__ import annotations

import msgspec

from leitwolf.daemon.notes import Notes
from leitwolf.model.events import Cause
from leitwolf.model.ids import GroupId, NodeId, ResourceId, ResourceState
from leitwolf.model.observations import ResourceReport
from leitwolf.model.quorum import Acceptor, AcceptorId
from leitwolf.model.state import Group, Resource, State
from leitwolf.wire.guard import LeaseClosed

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


# --- what ends with the lease --------------------------------------------------------------------


OVER = LeaseClosed(lease=7, reason="lease-over")
RUNS = ResourceState.ONLINE


def owning(me: int, **groups: dict[str, ResourceState]) -> State:
    """A state in which a node owns these groups, and another node one more."""
    cause = Cause(code="c", text="t")

    def group(name: str, owner: int) -> Group:
        return Group(
            id=GroupId(name),
            owner=NodeId(owner),
            cause=cause,
            preferred=(),
            restart_threshold=1,
            restart_period_s=1,
            failover_threshold=1,
            failover_period_s=1,
            retry_period_s=1,
        )

    def resource(name: str, group: str, state: ResourceState) -> Resource:
        return Resource(
            id=ResourceId(name),
            group=GroupId(group),
            type="process",
            parameters={},
            state=state,
            cause=cause,
        )

    found = [group(name, me) for name in groups] + [group("else", me + 1)]
    resources = [
        resource(name, owner, state)
        for owner, items in {**groups, "else": {"other": RUNS}}.items()
        for name, state in items.items()
    ]
    return State(
        groups={one.id: one for one in found}, resources={one.id: one for one in resources}
    )


def test_what_ends_with_the_lease_is_named_and_so_is_its_end() -> None:
    """The groups of this node with all that may run; once, when the guard attests that lease."""
    notes = Notes()
    state = owning(
        2,
        web={"web-ip": RUNS, "web-app": ResourceState.ONLINE_PENDING},
        db={"db-app": ResourceState.FAILED, "db-ip": ResourceState.OFFLINE_PENDING},
        idle={"idle-app": ResourceState.OFFLINE},
    )
    assert notes.ending(OVER, state, NodeId(2)) == [
        "run-lease over (lease-over): stopping db (db-ip), web (web-app, web-ip)"
    ]
    assert notes.ended(6) == ""
    assert notes.ended(7) == "all of it is stopped: db, web"
    assert notes.ended(7) == ""


def test_a_node_on_which_nothing_runs_stops_nothing() -> None:
    """It is told that the lease is over, and no end of what did not begin."""
    notes = Notes()
    lines = notes.ending(OVER, owning(2, idle={"app": ResourceState.OFFLINE}), NodeId(2))
    assert lines == ["run-lease over (lease-over): nothing runs here"]
    assert notes.ended(7) == ""


def test_lines_about_many_groups_stay_short() -> None:
    """All groups are named, over several lines; of many resources the first and their number."""
    many = {f"group-{number:02}": {f"service-{number:02}": RUNS} for number in range(20)}
    lines = Notes().ending(OVER, owning(2, **many), NodeId(2))
    assert all(name in "".join(lines) for name in many)
    assert max(map(len, lines)) <= 100
    big = owning(2, big={f"r{number:02}": RUNS for number in range(30)})
    [line] = Notes().ending(OVER, big, NodeId(2))
    assert line.endswith("stopping big (r00, r01, r02, r03, r04 and 25 more)")
