"""What commands about the cluster, its nodes and tokens mean."""

from __future__ import annotations

import re

from leitwolf.core.lease.profile import PROFILES, ProfileError
from leitwolf.core.membership import ways
from leitwolf.core.policy.checks import (
    Judged,
    Refused,
    check_name,
    check_range,
    find_node,
    judged,
    parse_address,
    parse_subnet,
)
from leitwolf.core.policy.commands_quorum import check_silence, check_slots, longest_silence
from leitwolf.core.policy.health import is_quorum, unable
from leitwolf.core.quorum.predicate import contenders, witnesses
from leitwolf.model import commands, events
from leitwolf.model.events import Event
from leitwolf.model.ids import NO_NODE, NodeId, NodeStatus
from leitwolf.model.limits import (
    HEARTBEAT_KEY_BYTES,
    NODES_MAX,
    RECORD_LINE_BYTES_MAX,
    RECORD_LINES_MAX,
    TOKEN_LIFETIME_S_MAX,
)
from leitwolf.model.observations import Observations
from leitwolf.model.quorum import location_of
from leitwolf.model.state import State
from leitwolf.model.types import address_of

__all__ = [
    "add_node",
    "blind_nodes",
    "change_cluster",
    "evict_node",
    "issue_token",
    "make_backup",
    "pause_node",
    "rekey",
    "stop_node",
    "tell_ability",
    "tell_record",
    "transfer_leader",
    "transfer_refusal",
    "unfit_joiner",
]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TRANSFER_FAILED = {
    "no-voter": (
        "transfer-no-voter",
        "it has no vote",
        "leitwolf quorum status shows who has one",
    ),
    "not-connected": (
        "transfer-not-connected",
        "its daemon is not connected",
        "see whether it runs, then ask again",
    ),
    "not-caught-up": (
        "transfer-not-caught-up",
        "it did not get the newest entries in time",
        "ask again when leitwolf quorum status shows that it caught up",
    ),
}
"""By the reason of a failed transfer: code, what is wrong, and what to do."""


def pause_node(state: State, command: commands.PauseNode, _seen: Observations) -> Judged:
    """Pause, drain or resume a node."""
    node = find_node(state, command.node)
    if node.status is NodeStatus.LEAVING:
        raise Refused("node-leaving", f"{node.name} leaves the cluster", field="node")
    draining = command.paused and command.drain
    verb = ("drain" if draining else "pause") if command.paused else "resume"
    text = f"{verb} node {node.name}"
    if node.paused is command.paused and node.draining is draining:
        return judged([], text)
    paused = events.NodePaused(node=node.id, paused=command.paused, drain=draining)
    return judged([paused], text)


def stop_node(state: State, command: commands.StopNode, _seen: Observations) -> Judged:
    """Let the groups of a node that is about to stop move away, and none come."""
    node = find_node(state, command.node)
    text = f"{node.name} is about to stop" if command.stopping else f"{node.name} goes on"
    if node.stopping is command.stopping:
        return judged([], text)
    return judged([events.NodeStopping(node=node.id, stopping=command.stopping)], text)


def tell_record(state: State, command: commands.TellRecord, _seen: Observations) -> Judged:
    """Let a node that was without quorum tell what it did."""
    node = find_node(state, command.node)
    check_range(len(command.lines), "lines", 1, RECORD_LINES_MAX)
    for line in command.lines:
        check_range(len(line.encode()), "lines", 1, RECORD_LINE_BYTES_MAX)
    told = events.LocalRecord(node=node.id, lines=command.lines)
    return judged([told], f"{node.name} tells what it did without a quorum")


def make_backup(state: State, command: commands.MakeBackup, _seen: Observations) -> Judged:
    """Say that a backup is made."""
    node = find_node(state, command.node)
    return judged([events.BackupMade(node=node.id)], f"make a backup on {node.name}")


def tell_ability(state: State, command: commands.TellAbility, _seen: Observations) -> Judged:
    """Remember what the guard of a node got from its machine, and where it is on new networks."""
    node = find_node(state, command.node)
    scheduling = "real-time scheduling" if command.realtime else "no real-time scheduling"
    text = f"the guard of {node.name} has {scheduling}"
    # An address that peers use now is not replaced here: only the node could tell them the old one.
    fresh = {name: at for name, at in command.addresses.items() if name not in node.addresses}
    if fresh:
        _check_addresses(state, fresh)
        text = f"{node.name} has an address on {', '.join(sorted(fresh))}"
    elif node.realtime is command.realtime:
        return judged([], text)
    changed = events.NodeChanged(
        node=node.id,
        realtime=command.realtime,
        addresses=node.addresses | fresh if fresh else None,
    )
    return judged([changed], text)


# --- joining -------------------------------------------------------------------------------------


def add_node(state: State, command: commands.AddNode, _seen: Observations) -> Judged:
    """Let a node join as a learner; its token is used up by it."""
    check_name(command.name, "name")
    again = _granted_before(state, command)
    if again is not None:
        return again
    if command.token not in state.tokens:
        raise Refused(
            "token-unknown",
            "the join token is unknown, used or expired",
            hint="make a new one on a member: leitwolf token",
            field="token",
        )
    if len(state.nodes) >= NODES_MAX:
        raise Refused(
            "too-many", f"the cluster has {len(state.nodes)} nodes", hint=f"at most {NODES_MAX}"
        )
    if not _DIGEST.fullmatch(command.fingerprint):
        raise Refused(
            "invalid-digest",
            "fingerprint is no SHA-256 in hexadecimal",
            hint="64 characters of 0-9, a-f",
            field="fingerprint",
        )
    for node in state.nodes.values():
        for field, mine, other in (
            ("name", command.name, node.name),
            ("uuid", command.uuid, node.uuid),
            ("storage", command.storage, node.storage),
        ):
            if mine == other:
                raise Refused(
                    "node-exists",
                    f"{field} = {mine} belongs to node {node.name}",
                    hint=(
                        "give this node another name"
                        if field == "name"
                        else f"this is {node.name} or a copy of it: "
                        f"evict it first (leitwolf node evict {node.name})"
                    ),
                    field=field,
                )
    _check_addresses(state, command.addresses)
    unfit = unfit_joiner(state, command)
    if unfit is not None:
        raise Refused(unfit.code, unfit.text, hint=unfit.hint, field=unfit.field)
    number = NodeId(state.node_serial + 1)
    disk = state.wish.witness
    if disk is not None:
        check_slots(disk.slots, [number], disk.location, in_use=True)
    found: list[Event] = [
        events.TokenUsed(digest=command.token),
        events.NodeAdded(
            node=number,
            name=command.name,
            uuid=command.uuid,
            storage=command.storage,
            addresses=command.addresses,
            fingerprint=command.fingerprint,
            token=command.token,
        ),
    ]
    return judged(found, f"let node {command.name} join", {"node": str(number)})


def unfit_joiner(state: State, command: commands.AddNode) -> commands.Refusal | None:
    """Return why a joiner cannot hold the timing profile of the cluster, None: it can."""
    if command.realtime is None:
        return None
    stall_ms = command.stall_ms
    problem = _unheld(state.profile, realtime=command.realtime, stall_ms=stall_ms)
    if not problem:
        return None
    longer = [
        name for name in PROFILES if not _unheld(name, realtime=command.realtime, stall_ms=stall_ms)
    ]
    remedies = [] if command.realtime else [f"run Leitwolf as root on {command.name}"]
    remedies += [f"on a member: leitwolf set --profile {name}" for name in longer[:1]]
    if command.realtime:
        remedies.append("ask again a minute after what made the machine stall")
    shown = "stalls" if command.realtime else "has no real-time scheduling"
    return commands.Refusal(
        code="profile-too-short",
        text=f"{command.name} {shown}: {problem}",
        hint=", or ".join(remedies),
        field="profile",
    )


def _unheld(profile: str, *, realtime: bool, stall_ms: int) -> str:
    """Return why a machine cannot hold a profile, '': it can."""
    try:
        PROFILES[profile].verify_on(realtime=realtime, stall_ms=stall_ms)
    except ProfileError as error:
        return str(error)
    return ""


def _granted_before(state: State, command: commands.AddNode) -> Judged | None:
    """Grant the same again to a joiner whose answer was lost: it never got as far as to learn."""
    for node in state.nodes.values():
        if (
            node.status is NodeStatus.LEARNER
            and node.token == command.token
            and (node.name, node.uuid, node.storage)
            == (command.name, command.uuid, command.storage)
            and _DIGEST.fullmatch(command.fingerprint)
        ):
            renewed = events.NodeChanged(node=node.id, fingerprint=command.fingerprint)
            return judged([renewed], f"tell {node.name} again", {"node": str(node.id)})
    return None


def _check_addresses(state: State, addresses: dict[str, str]) -> None:
    """Check the addresses of a new node: readable, on known networks, used by nobody else."""
    if not addresses:
        raise Refused(
            "invalid-address",
            "the node has no address on any network",
            hint=f"networks: {', '.join(sorted(state.networks)) or 'none'}",
            field="addresses",
        )
    taken: dict[str, str] = {}
    for node in state.nodes.values():
        taken |= dict.fromkeys(node.addresses.values(), f"node {node.name}")
    for resource in state.resources.values():
        virtual = address_of(resource.parameters)
        if virtual is not None:
            taken[str(virtual.ip)] = f"resource {resource.id}"
    for name, text in sorted(addresses.items()):
        network = state.networks.get(name)
        if network is None:
            raise Refused(
                "unknown-network",
                f"there is no network {name}",
                hint=f"networks: {', '.join(sorted(state.networks)) or 'none'}",
                field="addresses",
            )
        address = parse_address(text)
        if not any(address in parse_subnet(subnet, "subnets") for subnet in network.subnets):
            raise Refused(
                "address-outside",
                f"address {address} lies in no subnet of network {name} "
                f"({', '.join(network.subnets)})",
                hint=f"give it an address on {name}",
                field="addresses",
            )
        if str(address) in taken:
            raise Refused(
                "node-exists",
                f"address {address} belongs to {taken[str(address)]}",
                hint="give the machine an address of its own",
                field="addresses",
            )


def issue_token(state: State, command: commands.IssueToken, _seen: Observations) -> Judged:
    """Make a join token known by its digest."""
    if not _DIGEST.fullmatch(command.digest):
        raise Refused(
            "invalid-digest",
            "digest is no SHA-256 in hexadecimal",
            hint="64 characters of 0-9, a-f",
            field="digest",
        )
    check_range(command.lifetime_s, "lifetime_s", 1, TOKEN_LIFETIME_S_MAX)
    if command.digest in state.tokens:
        raise Refused("token-exists", "this join token is known already", field="digest")
    issued = events.TokenIssued(digest=command.digest, lifetime_s=command.lifetime_s)
    return judged([issued], f"make a join token for {command.lifetime_s} s")


# --- leaving -------------------------------------------------------------------------------------


def evict_node(state: State, command: commands.EvictNode, seen: Observations) -> Judged:
    """Let a node leave, or put it out, if those that remain can go on without it."""
    node = find_node(state, command.node)
    verb = "let" if command.leaving else "evict"
    text = f"{verb} node {node.name}" + (" leave" if command.leaving else "")
    if node.status is NodeStatus.LEAVING:
        return judged([], text)
    if len(state.nodes) == 1:
        raise Refused(
            "last-node",
            f"{node.name} is the only node",
            hint="leitwolf destroy ends the cluster",
            field="node",
        )
    acceptors = state.quorum.acceptors if state.quorum is not None else ()
    remaining = [acceptor for acceptor in acceptors if acceptor.id.node != node.id]
    voters = sum(acceptor.weight for acceptor in remaining)
    if acceptors and voters == 0:
        raise Refused(
            "last-node",
            f"without {node.name} nobody votes",
            hint="wait until another node is a full member",
            field="node",
        )
    reachable = _connected(seen) | seen.witnesses
    if acceptors and not is_quorum(remaining, reachable):
        missing = sorted(
            state.nodes[acceptor.id.node].name
            for acceptor in remaining
            if acceptor.id.node not in reachable and acceptor.id.node in state.nodes
        )
        raise Refused(
            "not-enough-voters",
            f"without {node.name} the nodes that can be reached would be no quorum: "
            f"{', '.join(missing)} cannot be reached",
            hint=(
                f"start {' or '.join(missing)} first, or evict what is gone for good "
                f"before {node.name}, or let a new node join"
            ),
            field="node",
            retryable=True,
        )
    leaving = events.NodeLeaving(
        node=node.id, evicted=not command.leaving, replaced=command.replaced
    )
    return judged([leaving], text)


def _connected(seen: Observations) -> frozenset[int]:
    return frozenset(node for node, view in seen.nodes.items() if view.connected)


def rekey(state: State, command: commands.Rekey, _seen: Observations) -> Judged:
    """Begin to replace the heartbeat key; the leader takes the further steps."""
    if len(state.keys) > 1:
        raise Refused(
            "rekey-under-way",
            "the keys are being replaced already",
            hint="wait until it is done: leitwolf log",
        )
    for field, key in (("former", command.former), ("key", command.key)):
        if len(key) != HEARTBEAT_KEY_BYTES:
            raise Refused(
                "invalid-key",
                f"{field} has {len(key)} bytes",
                hint=f"a heartbeat key has {HEARTBEAT_KEY_BYTES} bytes",
                field=field,
            )
    if command.former == command.key or (state.keys and state.keys[0] != command.former):
        raise Refused("invalid-key", "the former key is not the one in use", field="former")
    event = events.KeysSet(keys=(command.former, command.key), stage="spread")
    return judged([event], "replace the heartbeat key")


def blind_nodes(state: State, seen: Observations) -> frozenset[NodeId]:
    """Return the nodes that told that they do not reach what they would need to lead now."""
    if state.quorum is None:
        return frozenset()
    passives = witnesses(state.quorum)
    alive = _connected(seen) | {acceptor.id.node for acceptor in passives}
    if _must_go(state):
        alive -= {state.leader}
    return unable(state, alive, ways.blind(passives, seen.paths))


def _must_go(state: State) -> bool:
    """Return whether the leader stops or leaves, so that it hands over to whom it can."""
    leader = state.nodes.get(state.leader)
    return leader is not None and (leader.stopping or leader.status is NodeStatus.LEAVING)


def _check_sight(state: State, nodes: set[NodeId], seen: Observations) -> None:
    """Refuse if, of those of these nodes that may lead, none reaches what it needs for that."""
    if state.quorum is None:
        return
    able = {one.node for one in contenders(state.quorum)} & nodes
    if not able or not able <= blind_nodes(state, seen):
        return
    said, advice = [], []
    for acceptor in witnesses(state.quorum):
        kind = "disk" if acceptor.kind == "disk" else "witness"
        for node, path in ways.to(acceptor, seen.paths):
            if path.fault and node in able:
                name, where = state.nodes[node].name, location_of(acceptor, state.relocations, node)
                said.append(
                    f"{name} could not lead: it told that it does not reach {kind} {where} "
                    f"since {ways.since(path)}: {path.fault}"
                )
                advice.append(ways.advice(name, acceptor.kind, where))
    raise Refused(
        "node-blind",
        "; ".join(said),
        hint=f"{advice[0]}; every node looks each 5 s, then ask again",
        field="node",
        retryable=True,
    )


def transfer_leader(state: State, command: commands.TransferLeader, seen: Observations) -> Judged:
    """Check that a node can lead; handing over leadership leaves no event of its own."""
    if command.node == NO_NODE:
        others = [
            node
            for node in state.nodes.values()
            if node.status is NodeStatus.MEMBER
            and node.id != state.leader
            and node.id in _connected(seen)
        ]
        if not others:
            raise Refused(
                "no-candidate",
                "no other member can be reached",
                hint="start another node first",
                field="node",
                retryable=True,
            )
        if not _must_go(state):
            _check_sight(state, {node.id for node in others}, seen)
        return judged([], "hand leadership to another node")
    node = find_node(state, command.node)
    if node.status is not NodeStatus.MEMBER:
        code = "node-leaving" if node.status is NodeStatus.LEAVING else "node-learner"
        raise Refused(code, f"{node.name} has no vote ({node.status})", field="node")
    if node.id not in _connected(seen):
        raise Refused(
            "node-not-connected",
            f"the daemon of {node.name} is not connected",
            hint="see whether it runs",
            field="node",
            retryable=True,
        )
    _check_sight(state, {node.id}, seen)
    return judged([], f"hand leadership to {node.name}")


# --- cluster -------------------------------------------------------------------------------------


def _check_ability(state: State, profile: str) -> None:
    """Refuse a profile that a node cannot hold; one that did not tell yet is believed to."""
    check_silence(PROFILES[profile], longest_silence(state), "profile")
    unfit: list[str] = []
    problem = ""
    for node in state.nodes.values():
        if node.realtime is None or node.status is NodeStatus.LEAVING:
            continue
        if found := _unheld(profile, realtime=node.realtime, stall_ms=0):
            unfit.append(node.name)
            problem = found
    if unfit:
        names = ", ".join(sorted(unfit))
        raise Refused(
            "profile-too-short",
            f"no real-time scheduling on {names}: {problem}",
            hint=f"run Leitwolf as root on {names}, or use the profile virtual",
            field="profile",
        )


def change_cluster(state: State, command: commands.ChangeCluster, _seen: Observations) -> Judged:
    """Change settings of the cluster."""
    if command.name is not None:
        check_name(command.name, "name")
    if command.profile is not None and command.profile not in PROFILES:
        raise Refused(
            "unknown-profile",
            f"there is no profile {command.profile!r}",
            hint=f"profiles: {', '.join(PROFILES)}",
            field="profile",
        )
    name = command.name if command.name != state.name else None
    profile = command.profile if command.profile != state.profile else None
    if profile is not None and state.profile_former:
        raise Refused(
            "profile-changing",
            f"the change from {state.profile_former} to {state.profile} is not over yet",
            hint="ask again in some seconds; every node with a lease must have the last change",
            field="profile",
            retryable=True,
        )
    if profile is not None:
        _check_ability(state, profile)
    found: list[Event] = []
    if name is not None or profile is not None:
        found.append(events.ClusterChanged(name=name, profile=profile))
    words = [f"{field} {value}" for field, value in (("name", name), ("profile", profile)) if value]
    return judged(found, "change the cluster" + (f": {', '.join(words)}" if words else ""))


def transfer_refusal(whom: str, reason: str) -> commands.Refusal:
    """Return what to answer when leadership could not be handed to ``whom``.

    Args:
        whom: name of the node.
        reason: ``no-voter``, ``not-connected`` or ``not-caught-up``.
    """
    code, problem, hint = _TRANSFER_FAILED[reason]
    return commands.Refusal(
        code=code,
        text=f"leadership was not handed to {whom}: {problem}",
        hint=hint,
        field="node",
        retryable=True,
    )
