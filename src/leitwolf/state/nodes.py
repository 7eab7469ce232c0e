"""How events of the cluster, its nodes, networks and tokens change the state."""

from __future__ import annotations

from msgspec.structs import replace

from leitwolf.model import events
from leitwolf.model.errors import check
from leitwolf.model.ids import NO_NODE, NodeId, NodeStatus
from leitwolf.model.quorum import Acceptor, Relocation
from leitwolf.model.state import Network, Node, Token, Vacancy
from leitwolf.model.witness import WITNESS_ID_MIN, is_witness
from leitwolf.state.draft import Draft
from leitwolf.state.transitions import NODE_TRANSITIONS
from leitwolf.wire.lineage import continues, describe

__all__ = [
    "apply_cluster_changed",
    "apply_cluster_formed",
    "apply_keys_set",
    "apply_leader_elected",
    "apply_network_set",
    "apply_node_added",
    "apply_node_changed",
    "apply_node_down",
    "apply_node_leaving",
    "apply_node_paused",
    "apply_node_promoted",
    "apply_node_removed",
    "apply_node_stopping",
    "apply_node_up",
    "apply_nothing",
    "apply_quorum_forced",
    "apply_token_issued",
    "apply_token_used",
    "apply_witness_relocated",
]


def apply_nothing(
    _draft: Draft, _event: events.QuorumChanged | events.LocalRecord | events.BackupMade
) -> None:
    """Change nothing: the event is history only."""


def apply_cluster_formed(draft: Draft, event: events.ClusterFormed) -> None:
    """Form the cluster, once."""
    check(not draft.uuid, "a second ClusterFormed in one log")
    draft.uuid = event.uuid
    draft.name = event.name
    draft.profile = event.profile
    draft.port = event.port
    draft.authority = event.authority
    draft.generation_floor = event.generation_floor


def apply_cluster_changed(draft: Draft, event: events.ClusterChanged) -> None:
    """Change settings of the cluster."""
    if event.name is not None:
        draft.name = event.name
    if event.profile is not None:
        check(not draft.profile_former, "a change of the profile before the last one settled")
        draft.profile_former, draft.profile = draft.profile, event.profile
        draft.profile_set = draft.index


def apply_profile_settled(draft: Draft, _event: events.ProfileSettled) -> None:
    """Forget the former profile."""
    draft.profile_former = ""


def apply_keys_set(draft: Draft, event: events.KeysSet) -> None:
    """Change the heartbeat keys."""
    check(1 <= len(event.keys) <= 2, f"{len(event.keys)} heartbeat keys")
    draft.keys, draft.keys_stage = event.keys, event.stage
    draft.keys_set, draft.keys_time = draft.index, draft.time


def apply_quorum_wished(draft: Draft, event: events.QuorumWished) -> None:
    """Remember which kind of quorum is wanted."""
    witness = event.wish.witness
    if witness is not None:
        check(is_witness(witness.id.node), f"a witness has the id of a node: {witness.id.node}")
        draft.witness_serial = max(draft.witness_serial, witness.id.node - WITNESS_ID_MIN + 1)
    check(witness is not None or event.wish.node_weight > 0, "nobody has a vote")
    voteless = event.wish.voteless
    check(voteless == tuple(sorted(set(voteless))), f"nodes without vote: {voteless}")
    draft.wish = event.wish
    used = {a.id.storage for a in draft.quorum.acceptors} if draft.quorum is not None else set()
    named = witness.id.storage if witness is not None else ""
    draft.relocations = tuple(
        one
        for one in draft.relocations
        if (one.storage in used or one.storage == named)
        and not (one.storage == named and one.node == NO_NODE)  # it was named anew
    )


def apply_witness_relocated(draft: Draft, event: events.WitnessRelocated) -> None:
    """Remember another way to a disk or witness."""
    if event.node != NO_NODE:
        draft.nodes.need(event.node)
    place = (event.storage, event.node)
    rest = tuple(one for one in draft.relocations if (one.storage, one.node) != place)
    if event.location:
        found = Relocation(storage=event.storage, node=event.node, location=event.location)
        rest = (*rest, found)
    draft.relocations = rest


def apply_quorum_forced(draft: Draft, event: events.QuorumForced) -> None:
    """Begin a new history, in which the nodes that go on vote alone."""
    check(
        continues(event.lineage, draft.lineage),
        f"forced into {describe(event.lineage)}, which does not continue {describe(draft.lineage)}",
    )
    for node in event.nodes:
        draft.nodes.need(node)
    draft.lineage, draft.forced = event.lineage, draft.index
    draft.given_up = _left_behind(draft)
    draft.wish = replace(draft.wish, witness=None, node_weight=1)  # votes are given as before
    for resource in list(draft.resources):
        if resource.proven:
            # Perhaps it is still used somewhere, whatever the operator was told.
            draft.resources.put(resource.id, replace(resource, proven=False, changed=draft.index))


def _left_behind(draft: Draft) -> tuple[Acceptor, ...]:
    """Return all disks and witnesses that were given up, with those in use or brought in now."""
    config, wanted = draft.former_quorum, draft.wish.witness
    left = [*config.acceptors, *(config.former or ())] if config is not None else []
    if wanted is not None:
        left.append(wanted)
    known = {one.id.storage: one for one in draft.given_up}
    for acceptor in left:
        if acceptor.kind != "node":
            known.setdefault(acceptor.id.storage, acceptor)
    return tuple(known.values())


def apply_leader_elected(draft: Draft, event: events.LeaderElected) -> None:
    """Remember who leads."""
    draft.leader = draft.nodes.need(event.node).id


def apply_node_added(draft: Draft, event: events.NodeAdded) -> None:
    """Add a node: the first one as member, all others as learners."""
    check(
        event.node > draft.node_serial,
        f"node id {event.node} was given before (highest {draft.node_serial})",
    )
    for other in draft.nodes:
        check(other.name != event.name, f"two nodes named {event.name}")
        check(other.uuid != event.uuid, f"two nodes with uuid {event.uuid}")
    first = not draft.nodes.rows
    draft.node_serial = event.node
    draft.nodes.put(
        event.node,
        Node(
            id=event.node,
            name=event.name,
            uuid=event.uuid,
            storage=event.storage,
            addresses=event.addresses,
            fingerprint=event.fingerprint,
            status=NodeStatus.MEMBER if first else NodeStatus.LEARNER,
            token="" if first else event.token,
            changed=draft.index,
        ),
    )
    if event.name in draft.vacancies:
        _fill(draft, draft.vacancies.need(event.name), event.node)
        draft.vacancies.drop(event.name)


def _fill(draft: Draft, vacancy: Vacancy, newcomer: NodeId) -> None:
    """Put a node where the former one of its name was, unless that was changed meanwhile."""
    for group in list(draft.groups):
        before = vacancy.preferred.get(group.id, ())
        if before and group.preferred == tuple(node for node in before if node in draft.nodes):
            now = (newcomer if node == vacancy.node else node for node in before)
            preferred = tuple(node for node in now if node in draft.nodes)
            draft.groups.put(group.id, replace(group, preferred=preferred))
    if vacancy.prefers and draft.wish.prefer == NO_NODE:
        draft.wish = replace(draft.wish, prefer=newcomer)
    if vacancy.voteless:
        # In order: it has the highest number that there ever was.
        draft.wish = replace(draft.wish, voteless=(*draft.wish.voteless, newcomer))
    draft.relocations += tuple(replace(way, node=newcomer) for way in vacancy.relocations)


def _stand(draft: Draft, node: Node, status: NodeStatus) -> Node:
    check(
        status in NODE_TRANSITIONS[node.status],
        f"node {node.name} cannot become {status} from {node.status}",
    )
    return replace(node, status=status, changed=draft.index)


def apply_node_promoted(draft: Draft, event: events.NodePromoted) -> None:
    """Make a learner a member."""
    node = draft.nodes.need(event.node)
    draft.nodes.put(node.id, replace(_stand(draft, node, NodeStatus.MEMBER), token=""))


def apply_node_changed(draft: Draft, event: events.NodeChanged) -> None:
    """Change what is known of a node."""
    node = draft.nodes.need(event.node)
    draft.nodes.put(
        node.id,
        replace(
            node,
            addresses=node.addresses if event.addresses is None else event.addresses,
            storage=node.storage if event.storage is None else event.storage,
            fingerprint=node.fingerprint if event.fingerprint is None else event.fingerprint,
            realtime=node.realtime if event.realtime is None else event.realtime,
            changed=draft.index,
        ),
    )


def apply_node_paused(draft: Draft, event: events.NodePaused) -> None:
    """Pause, drain or resume a node."""
    node = draft.nodes.need(event.node)
    draining = event.paused and event.drain
    draft.nodes.put(
        node.id, replace(node, paused=event.paused, draining=draining, changed=draft.index)
    )


def apply_node_stopping(draft: Draft, event: events.NodeStopping) -> None:
    """Let a node stop in order, or go on."""
    node = draft.nodes.need(event.node)
    draft.nodes.put(node.id, replace(node, stopping=event.stopping, changed=draft.index))


def apply_node_leaving(draft: Draft, event: events.NodeLeaving) -> None:
    """Let a node go."""
    node = _stand(draft, draft.nodes.need(event.node), NodeStatus.LEAVING)
    draft.nodes.put(node.id, replace(node, evicted=event.evicted, replaced=event.replaced))


def apply_node_removed(draft: Draft, event: events.NodeRemoved) -> None:
    """Forget a node everywhere. It must be down and own nothing."""
    node = draft.nodes.need(event.node)
    check(not node.up, f"node {node.name} is removed while it is up")
    if node.replaced:
        draft.vacancies.put(node.name, _place_of(draft, node.id))
    for group in list(draft.groups):
        check(group.owner != node.id, f"node {node.name} is removed while it owns {group.id}")
        if node.id in group.preferred or node.id in group.visited or node.id == group.target:
            draft.groups.put(
                group.id,
                replace(
                    group,
                    preferred=tuple(other for other in group.preferred if other != node.id),
                    visited=tuple(other for other in group.visited if other != node.id),
                    target=NO_NODE if group.target == node.id else group.target,
                    changed=draft.index,
                    cause=draft.because,
                ),
            )
    draft.nodes.drop(node.id)
    draft.relocations = tuple(one for one in draft.relocations if one.node != node.id)
    if draft.leader == node.id:
        draft.leader = NO_NODE
    wish = draft.wish
    if node.id in (wish.prefer, *wish.voteless):
        draft.wish = replace(
            wish,
            prefer=NO_NODE if wish.prefer == node.id else wish.prefer,
            voteless=tuple(other for other in wish.voteless if other != node.id),
        )


def _place_of(draft: Draft, node: NodeId) -> Vacancy:
    wish = draft.wish
    return Vacancy(
        node=node,
        preferred={group.id: group.preferred for group in draft.groups if node in group.preferred},
        prefers=wish.prefer == node,
        voteless=node in wish.voteless,
        relocations=tuple(way for way in draft.relocations if way.node == node),
    )


def apply_node_up(draft: Draft, event: events.NodeUp) -> None:
    """Let a node own groups."""
    node = draft.nodes.need(event.node)
    check(not node.up, f"node {node.name} is up already")
    draft.nodes.put(node.id, replace(node, up=True, stopping=False, changed=draft.index))


def apply_node_down(draft: Draft, event: events.NodeDown) -> None:
    """Note that a node holds no lease any more."""
    node = draft.nodes.need(event.node)
    check(node.up, f"node {node.name} is down already")
    draft.nodes.put(node.id, replace(node, up=False, changed=draft.index))


def apply_network_set(draft: Draft, event: events.NetworkSet) -> None:
    """Add or change a network."""
    draft.networks.put(
        event.name,
        Network(
            name=event.name,
            subnets=event.subnets,
            role=event.role,
            link=event.link,
            changed=draft.index,
        ),
    )


def apply_token_issued(draft: Draft, event: events.TokenIssued) -> None:
    """Remember a join token."""
    check(event.digest not in draft.tokens, "a join token is issued twice")
    draft.tokens.put(
        event.digest,
        Token(
            digest=event.digest,
            lifetime_s=event.lifetime_s,
            issued=draft.index,
            issued_at=draft.time,
        ),
    )


def apply_token_used(draft: Draft, event: events.TokenUsed) -> None:
    """Forget a join token."""
    draft.tokens.drop(event.digest)
