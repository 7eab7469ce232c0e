"""How disks and witnesses are shown: what they take, who reaches them, what will hurt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
from msgspec.structs import replace

from leitwolf.cli import check, render
from leitwolf.client import Client
from leitwolf.core.membership.paths import Paths
from leitwolf.core.quorum.passive import Passive
from leitwolf.daemon.heard import Heard
from leitwolf.model.errors import ProtocolError, UnavailableError
from leitwolf.model.ids import NodeId
from leitwolf.model.quorum import Acceptor, AcceptorId
from leitwolf.model.views import (
    FindingView,
    PathView,
    QuorumMember,
    QuorumView,
    SurvivalView,
    TimesView,
)
from leitwolf.peers.stream import Counters
from leitwolf.wire.guard import DatagramReport

FINDING = FindingView(code="path-lost", text="n2 does not reach it", fix="look at the cable")


def member(**fields: object) -> QuorumMember:
    given: dict[str, object] = {
        "node": "disk /dev/sdb",
        "weight": 1,
        "configured": 1,
        "voting": True,
        "match": 7,
        "connected": True,
        "kind": "disk",
        "silence_ms": 260.0,
        "times": TimesView(
            samples=4096,
            p50_ms=0.4,
            p999_ms=7.25,
            worst_ms=31.0,
            slow=3,
            failures=2,
            failed_s=12.0,
            failure="witness-unreachable: gone",
        ),
        "paths": (
            PathView(node="n1", reaches=True, since_wall=1, fault="", location="/dev/sdb"),
            PathView(node="n2", reaches=False, since_wall=1, fault="gone", location="/dev/sdb"),
        ),
    }
    return QuorumMember(**{**given, **fields})  # type: ignore[arg-type]


def view(*members: QuorumMember, findings: tuple[FindingView, ...] = ()) -> QuorumView:
    return QuorumView(
        node="n1",
        leader="n1",
        ballot="0.1.1",
        promised="0.1.1",
        epoch=0,
        commit=7,
        last=7,
        votes=1,
        needed=1,
        profile="default",
        heartbeat_ms=50,
        promise_ms=260,
        run_ms=420,
        kill_ms=60,
        lease_margin_ms=200,
        leader_margin_ms=200,
        worst_stall_ms=1,
        realtime=True,
        guard=True,
        joint=False,
        members=members,
        survives="",
        survival=SurvivalView(quorum=True, at_once=0, in_turn=0, apart_ms=0, losses=()),
        dynamic=False,
        prefer="",
        lacking="",
        findings=findings,
    )


def test_a_disk_is_shown_with_its_times_and_who_reaches_it() -> None:
    """Silence, quantiles, slow and failed calls, and each node that does not reach it, with why."""
    text = render.quorum(view(member(), findings=(FINDING,)))
    assert "silence 260 ms; 4096 calls from here: p50 0.4, p99.9 7.2, worst 31.0 ms, 3 slow" in text
    assert "2 failed, the last 12 s ago\n      witness-unreachable: gone" in text
    assert "reached by n1\n" in text
    assert "NOT reached by n2 since 1970-01-01" in text
    assert text.endswith("! n2 does not reach it [path-lost]\n  -> look at the cable")


def test_what_was_dropped_is_counted_for_people() -> None:
    """Every reason is there for programs; people see those that occurred, or nothing."""
    heard = Heard(lambda _: None)
    counters = Counters()
    assert heard.dropped(counters).datagrams == {}, "no guard told"
    heard.take(DatagramReport(0, 2, 0, 0, 0, 3, 0, 0, 4))
    counters.handshakes_failed = 5
    counters.count_rejection("token-used")
    counters.count_broken(ProtocolError("too long", code="oversized"))
    found = heard.dropped(counters)
    assert found.datagrams.keys() >= {"foreign-key", "unknown-sender", "replayed", "misrouted"}
    line = (
        "heartbeats dropped: 2 oversized, 3 forged; not sent: 4; "
        "streams ended: 1 oversized, 5 handshakes-failed; rejected: 1 token-used\n"
    )
    assert line in render.quorum(replace(view(member()), dropped=found))
    nothing = Heard(lambda _: None).dropped(Counters())
    assert render.quorum(replace(view(member()), dropped=nothing)) == render.quorum(view(member()))


def test_a_disk_that_was_never_called_has_no_times() -> None:
    """No zeros that look like measurements."""
    times = TimesView(
        samples=0, p50_ms=0, p999_ms=0, worst_ms=0, slow=0, failures=0, failed_s=-1, failure=""
    )
    text = render.quorum(view(member(times=times, paths=())))
    assert text.endswith("    silence 260 ms")


@pytest.mark.parametrize(("findings", "ok"), [((), True), ((FINDING,), False)])
def test_check_repeats_what_the_daemon_knows(
    monkeypatch: pytest.MonkeyPatch, findings: tuple[FindingView, ...], ok: bool
) -> None:
    """Each finding is a loss with its way out."""
    monkeypatch.setattr(Client, "quorum", lambda _: view(member(), findings=findings))
    monkeypatch.setattr(Client, "status", lambda _: (_ for _ in ()).throw(UnavailableError("off")))
    assert not [one for one in check.findings(Path("/nowhere")) if one.name == "quorum"]

    class Formed:
        formed = True

    [found] = check._quorum(Client(Path("/nowhere")), Formed())  # type: ignore[arg-type]
    assert found.ok is ok
    if findings:
        assert (found.found, found.lost, found.fix) == (FINDING.code, FINDING.text, FINDING.fix)


@dataclass(frozen=True)
class Called:
    """What :class:`Paths` reads of a disk or witness that was called."""

    acceptor: Acceptor
    reached_since: int
    fault: str
    asks: int = 0


def test_another_kind_of_failure_is_told_and_other_words_are_not() -> None:
    """Unreachable, then mounted from elsewhere: what to do is another thing; since when is not."""
    paths = Paths()
    acceptor = Acceptor(id=AcceptorId(NodeId(60_000), "share"), kind="object")

    def told(since: int, fault: str) -> list[tuple[str, int]]:
        report = paths.note([cast("Passive", Called(acceptor, since, fault))], 100)
        return [(path.fault, path.since_wall) for path in report.paths] if report else []

    assert told(5, "witness-unreachable: gone") == [("witness-unreachable: gone", 105)]
    assert told(6, "witness-unreachable: timed out") == []
    assert told(7, "witness-foreign: another") == [("witness-foreign: another", 105)]
    assert told(8, "") == [("", 108)]
