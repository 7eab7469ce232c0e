"""Views of disks and witnesses: how long they take, who reaches them, what will hurt one day."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from leitwolf.core.lease.profile import MILLISECOND
from leitwolf.core.membership import acting, ways
from leitwolf.core.node import Node
from leitwolf.core.quorum.passive import Passive
from leitwolf.core.quorum.predicate import contenders
from leitwolf.core.rules import ALL_RULES
from leitwolf.model.ids import NO_NODE, NodeId
from leitwolf.model.observations import PathState
from leitwolf.model.quorum import location_of
from leitwolf.model.views import FindingView, PathView, TimesView
from leitwolf.model.witness import LASTING_FAULTS

__all__ = ["blind", "details", "findings", "seen"]

Naming = Callable[[NodeId], str]

_UNFIT = "witness-unfit"
_ASTRAY = frozenset({"witness-foreign", "witness-unformatted"})
"""What a node finds that looks at another place: a share that is not mounted there, another LUN."""
_ENGINE_ELECTION_NS = 900 * MILLISECOND
"""etcd at its defaults answers nothing for so long, at least, while it elects a leader."""


def details(node: Node, acceptor: NodeId, now: int, naming: Naming) -> dict[str, Any]:
    """Return the fields of a :class:`QuorumMember` that only disks and witnesses have."""
    passive = next((one for one in node.quorum.passives if one.node == acceptor), None)
    if passive is None:
        return {}
    relocations = node.state.relocations
    return {
        "kind": passive.acceptor.kind,
        "storage": passive.acceptor.id.storage,
        "location": location_of(passive.acceptor, relocations, NO_NODE),
        "silence_ms": passive.silence / MILLISECOND,
        "unfenced": passive.unfenced,
        "times": _times(passive, now),
        "paths": tuple(
            PathView(
                node=naming(who),
                reaches=not path.fault,
                since_wall=path.since_wall,
                fault=path.fault,
                location=location_of(passive.acceptor, relocations, who),
            )
            for who, path in ways.to(passive.acceptor, _told(node))
        ),
    }


def _times(passive: Passive, now: int) -> TimesView:
    times = passive.times
    return TimesView(
        samples=times.samples,
        p50_ms=times.p50 / MILLISECOND,
        p999_ms=times.p999 / MILLISECOND,
        worst_ms=times.worst / MILLISECOND,
        slow=times.slow,
        failures=times.failures,
        failed_s=-1.0 if times.failed_at < 0 else (now - times.failed_at) / 1e9,
        failure=times.failure,
    )


def _told(node: Node) -> dict[NodeId, tuple[PathState, ...]]:
    """Return what each node that may lead said of its ways to disks and witnesses, by node.

    Others do not look any more: what they said last is old.
    """
    told = {node.me: node.paths.own, **node.paths.others}
    able = {one.node for one in contenders(node.quorum.config)}
    return {who: said for who, said in told.items() if who in able}


def blind(node: Node) -> dict[NodeId, frozenset[NodeId]]:
    """Return the disks and witnesses that a member does not reach, or refuses, by member."""
    return ways.blind([passive.acceptor for passive in node.quorum.passives], _told(node))


def seen(node: Node) -> set[NodeId]:
    """Return the disks and witnesses that a node which may lead reaches: they are there."""
    told = _told(node)
    return {
        NodeId(passive.node)
        for passive in node.quorum.passives
        if any(not path.fault for _, path in ways.to(passive.acceptor, told))
    }


def findings(node: Node, naming: Naming, *, lasting: bool = False) -> tuple[FindingView, ...]:
    """Return what is wrong with disks and witnesses before anything is lost by it.

    Args:
        node: the core.
        naming: names nodes, disks and witnesses.
        lasting: also what a disk or engine lacks by its nature.
    """
    found: list[FindingView] = []
    profile, told = acting(node.state, ALL_RULES), _told(node)
    for passive in node.quorum.passives:
        what, paths = naming(passive.node), ways.to(passive.acceptor, told)
        whole = any(not path.fault for _, path in paths)
        lasting_fault = _replaced(what, paths, of_one={_UNFIT, *(_ASTRAY if whole else ())})
        found += lasting_fault
        for who, path in paths:
            where = location_of(passive.acceptor, node.state.relocations, who)
            code = path.fault.partition(": ")[0]
            if code == _UNFIT:
                found.append(_unfit(naming(who), what, passive.acceptor.kind, where, path))
            elif whole and code in _ASTRAY:
                found.append(_astray(naming(who), what, passive.acceptor.kind, where, path))
            elif path.fault and not lasting_fault:
                found.append(_lost(naming(who), what, passive.acceptor.kind, where, path))
        asked = max((path.silence_ms for _, path in paths), default=0)
        bears = profile.silence // MILLISECOND
        if asked > max(bears, profile.promise_ms):
            found.append(
                FindingView(
                    code="disk-slow",
                    text=f"{what} is so slow that its owner should be waited for {asked} ms; "
                    f"R of profile {profile.name} bears {bears} ms: a slow moment costs the office",
                    fix="a faster disk, or a longer profile: leitwolf set --profile",
                )
            )
        where = location_of(passive.acceptor, node.state.relocations, NO_NODE)
        alone = node.state.wish.node_weight == 0 and where.startswith("etcd:")
        if lasting and alone and profile.silence < _ENGINE_ELECTION_NS:
            found.append(_slow_engine(what, profile.name, bears))
        if lasting and passive.unfenced:
            found.append(
                FindingView(
                    code="witness-unfenced",
                    text=f"{what}: {passive.unfenced}, so an evicted node that does not know it "
                    "can write there",
                    fix="a LUN with SCSI-3 persistent reservations, as a whole disk or as iscsi://",
                )
            )
    return tuple(found)


def _slow_engine(what: str, profile: str, bears_ms: int) -> FindingView:
    return FindingView(
        code="engine-slow",
        text=f"{what}: etcd at its defaults elects a leader in 0.9 to 1.6 s, profile {profile} "
        f"bears {bears_ms} ms: each loss of its leader stops all groups",
        fix="leitwolf set --profile wan; or virtual, and a shorter --heartbeat-interval and "
        "--election-timeout for etcd",
    )


def _replaced(
    what: str, paths: list[tuple[NodeId, PathState]], of_one: Collection[str]
) -> list[FindingView]:
    """Return why a disk or witness is to be replaced, in the words of one node.

    ``of_one``: codes that may be the fault of the node that tells them.
    """
    for _, path in paths:
        code, _, text = path.fault.partition(": ")
        if code in LASTING_FAULTS and code not in of_one:
            return [FindingView(code=code, text=f"{what}: {text}", fix="leitwolf quorum replace")]
    return []


def _unfit(who: str, what: str, kind: str, where: str, path: PathState) -> FindingView:
    """Tell of a self-test that failed: on one node perhaps, which mounted it otherwise."""
    text = path.fault.partition(": ")[2]
    return FindingView(
        code=_UNFIT,
        text=f"{who} refuses {what}: {text}",
        fix=f"on {who}: leitwolf {ways.CHECKS[kind]} {where}; what was repaired counts again by "
        "itself; else: leitwolf quorum replace",
    )


def _astray(who: str, what: str, kind: str, where: str, path: PathState) -> FindingView:
    """Tell of a node that finds something else where others find what they should."""
    code, _, text = path.fault.partition(": ")
    return FindingView(
        code=code,
        text=f"{who} finds something else where others find {what}: {text}",
        fix=f"on {who}: see what is mounted or connected there; "
        f"leitwolf {ways.CHECKS[kind]} {where}",
    )


def _lost(who: str, what: str, kind: str, where: str, path: PathState) -> FindingView:
    return FindingView(
        code="path-lost",
        text=f"{who} does not reach {what} since {ways.since(path)}, and could not take over by "
        f"it: {path.fault}",
        fix=ways.advice(who, kind, where),
    )
