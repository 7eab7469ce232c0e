"""Admitting a joiner: its token, its addresses, its entry in the log, its certificate."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from leitwolf.core.membership.roster import interconnects
from leitwolf.core.policy import unfit_joiner
from leitwolf.daemon import forming
from leitwolf.daemon.cluster import Cluster
from leitwolf.daemon.rejoining import make_room, vouch
from leitwolf.daemon.timeline import Timeline
from leitwolf.model.commands import AddNode, Answer, Command, IssueToken, Refusal
from leitwolf.model.errors import Conflict, InvalidConfig, LeitwolfError, UnavailableError
from leitwolf.model.events import Cause, TokenUsed
from leitwolf.model.ids import NodeId, NodeStatus
from leitwolf.model.limits import TOKEN_LIFETIME_S_MAX
from leitwolf.model.state import State
from leitwolf.peers.frames import Code, JoinedMember, JoinGrant, JoinRequest, Rejection
from leitwolf.peers.identity import Identity, fingerprint_of_pem, load_identity
from leitwolf.peers.token import JoinToken, digest, format_token, new_secret
from leitwolf.system.clock import raw_ns

__all__ = ["admit", "new_token"]

_COMMIT_S = 9.0
"""The joiner waits 10 s."""
_BEHIND_S = 2.0
"""So long a token is waited for: the member that issued it may be ahead of this one."""
_SEARCHED_MAX = 2_000
"""Changes looked through for the end of a token; few callers get that far at a time."""
_TOKEN_ADDRESSES_MAX = 16
_NEW_TOKEN = "make a new one: leitwolf token"  # noqa: S105  # a hint

Commit = Callable[[Command, str, float], Awaitable[Answer]]


async def admit(
    cluster: Cluster, request: JoinRequest, caller: str, commit: Commit
) -> JoinGrant | Rejection:
    """Admit a joiner, or say why not. Whoever asks the same again is granted the same again.

    Args:
        cluster: this node.
        request: what the joiner says; anybody can have sent it.
        caller: its address.
        commit: has a command done and applied here.
    """
    by, token = f"join from {caller}", digest(request.secret)
    try:
        refusal = await vouch(cluster, request, by, commit)
        refusal = refusal or await _token_refusal(cluster, request, token)
    except LeitwolfError as error:
        return Rejection(code=Code.NO_QUORUM, text=error.text, hint=error.hint)
    if refusal is not None:
        return refusal
    state = cluster.node.state
    identity = load_identity(cluster.settings.config)
    networks = [(network.name, network.subnets) for network in state.networks.values()]
    try:
        certificate = await asyncio.to_thread(forming.issue, identity, request)
        addresses = forming.addresses_on(networks, request.addresses)
    except LeitwolfError as error:
        return Rejection(code=error.code, text=error.text, hint=error.hint)
    except ValueError as error:
        return Rejection(code=Code.NOT_ADMITTED, text=f"an address of the joiner is none: {error}")
    links = interconnects(state)
    if not any(name in addresses for name in links):
        return Rejection(
            code=Code.NOT_ADMITTED,
            text=f"{request.name} has no address on an interconnect of {state.name}",
            hint="; ".join(
                f"{name}: {' '.join(subnets)}" for name, subnets in networks if name in links
            ),
        )
    command = AddNode(
        name=request.name,
        uuid=request.uuid,
        storage=request.storage,
        addresses=addresses,
        fingerprint=fingerprint_of_pem(certificate),
        token=token,
        realtime=request.realtime,
        stall_ms=request.stall_ms,
    )
    # Before another node is evicted for it: one that takes its place must be able to.
    unfit = None if _granted_before(state, request, token) else unfit_joiner(state, command)
    if unfit is not None:
        return _rejection(unfit)
    try:
        refusal = await make_room(cluster, request, by, commit)
        if refusal is not None:
            return refusal
        answer = await commit(command, by, _COMMIT_S)
    except LeitwolfError as error:
        return Rejection(code=Code.NO_QUORUM, text=error.text, hint=error.hint)
    if answer.refusal is not None:
        return _rejection(answer.refusal)
    number = NodeId(int(answer.data["node"]))
    return _grant(cluster.node.state, number, identity, certificate, addresses)


def _grant(
    state: State, number: NodeId, identity: Identity, certificate: bytes, addresses: dict[str, str]
) -> JoinGrant:
    """Return all that a new member needs."""
    return JoinGrant(
        node=number,
        cluster=state.uuid,
        cluster_name=state.name,
        port=state.port,
        profile=state.profile,
        certificate=certificate,
        authority_certificate=identity.authority_certificate,
        authority_key=identity.authority_key,
        heartbeat_keys=identity.heartbeat_keys,
        links=tuple(interconnects(state)),
        lineage=state.lineage,
        addresses=addresses,
        members=tuple(
            JoinedMember(
                node=node.id, name=node.name, addresses=node.addresses, fingerprint=node.fingerprint
            )
            for node in state.nodes.values()
            if node.id != number
        ),
    )


async def new_token(cluster: Cluster, lifetime_s: int, by: str, commit: Commit) -> str:
    """Return a new one-time join token.

    Raises:
        InvalidConfig: the lifetime is out of range.
        LeitwolfError: the leader refused it.
    """
    if not 0 < lifetime_s <= TOKEN_LIFETIME_S_MAX:
        raise InvalidConfig(
            f"lifetime = {lifetime_s} s, allowed is 1..{TOKEN_LIFETIME_S_MAX}",
            field="lifetime",
        )
    secret = new_secret()
    answer = await commit(IssueToken(digest=digest(secret), lifetime_s=lifetime_s), by, 30)
    if answer.refusal is not None:
        refusal = answer.refusal
        kind = UnavailableError if refusal.retryable else Conflict
        raise kind(refusal.text, code=refusal.code, hint=refusal.hint)
    state = cluster.node.state
    identity = load_identity(cluster.settings.config)
    nodes = sorted(state.nodes.values(), key=lambda node: node.id != cluster.node.me)
    links = interconnects(state)
    addresses = [node.addresses[name] for node in nodes for name in links if name in node.addresses]
    return format_token(
        JoinToken(
            cluster=state.uuid,
            name=state.name,
            port=state.port,
            addresses=tuple(addresses[:_TOKEN_ADDRESSES_MAX]),
            authority=fingerprint_of_pem(identity.authority_certificate),
            secret=secret,
        )
    )


def _rejection(refusal: Refusal) -> Rejection:
    """Say what policy refused in the words of a join."""
    code = refusal.code
    if refusal.retryable:
        code = Code.NO_QUORUM
    elif code == "node-exists":
        code = {"name": Code.NAME_TAKEN, "addresses": Code.ADDRESS_TAKEN}.get(refusal.field, code)
    elif code == "token-unknown":
        code = Code.TOKEN_USED
    hint = refusal.hint
    if code == Code.NAME_TAKEN:
        hint = f"{hint}; if it is that node and lost its storage: leitwolf join TOKEN --replace"
    return Rejection(code=code, text=refusal.text, hint=hint)


def _granted_before(state: State, request: JoinRequest, token: str) -> bool:
    return any(
        node.uuid == request.uuid and node.token == token and node.status is NodeStatus.LEARNER
        for node in state.nodes.values()
    )


async def _token_refusal(cluster: Cluster, request: JoinRequest, token: str) -> Rejection | None:
    """Check a token by cluster time, which no wall clock moves."""
    timeline, loop = cluster.timeline, asyncio.get_running_loop()
    until = loop.time() + _BEHIND_S
    while (known := cluster.node.state.tokens.get(token)) is None:
        if _granted_before(cluster.node.state, request, token):
            return None
        ended = _end_of(timeline, token)
        if ended is not None and ended.code == Code.TOKEN_EXPIRED:
            return Rejection(code=Code.TOKEN_EXPIRED, text=ended.text, hint=_NEW_TOKEN)
        if ended is not None or loop.time() >= until:
            text = (
                f"the token was used already: {ended.text}" if ended else "the token is not known"
            )
            return Rejection(code=Code.TOKEN_USED, text=text, hint=_NEW_TOKEN)
        await timeline.wait_beyond(timeline.applied, until - loop.time())
    age_ns = cluster.node.cluster_time(raw_ns()) - known.issued_at
    if age_ns > known.lifetime_s * 1_000_000_000:
        return Rejection(
            code=Code.TOKEN_EXPIRED,
            text=f"the token expired: it was good for {known.lifetime_s} s",
            hint=_NEW_TOKEN,
        )
    return None


def _end_of(timeline: Timeline, token: str) -> Cause | None:
    """Return why a token is not valid any more, None when that is long ago or it never was."""
    after = max(0, timeline.applied - _SEARCHED_MAX)
    for _, change in reversed(timeline.lines(after, _SEARCHED_MAX)):
        if TokenUsed(digest=token) in change.events:
            return change.because
    return None
