"""Coming back in the place of a node that lost its storage: what it still has, and who lets it in.

Rules:

- Only a node that is down and named is replaced, and only on request: a live one of that name is
  another machine.
- The former node is evicted first, as always: nothing of it runs, its vote is gone, its number is
  never used again. The new one gets its name, and its place: among the preferred owners, its vote,
  its own ways to disks. The log keeps that place meanwhile.
- Who has no token may come with the certificate of the node that it was and a signature by its key;
  that counts as long as the log knows the certificate.
- What is here is set aside only when the cluster has let the new node in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from leitwolf.core.policy.commands_quorum import place_hint
from leitwolf.daemon import forming
from leitwolf.daemon.bootstrap import Bootstrap
from leitwolf.daemon.cluster import Cluster
from leitwolf.daemon.departure import load_lockout
from leitwolf.model.commands import Answer, Command, EvictNode, IssueToken
from leitwolf.model.errors import Conflict, LeitwolfError, StorageError
from leitwolf.model.state import Node
from leitwolf.model.views import JoinRequestView
from leitwolf.peers.frames import Code, JoinRequest, Rejection
from leitwolf.peers.identity import Identity, fingerprint_of_pem, load_identity
from leitwolf.peers.token import JoinToken, digest, new_secret, parse_token
from leitwolf.store import dump
from leitwolf.system.settings import Settings

__all__ = ["invitation", "make_room", "own_token", "vouch"]

_PROOF_LIFETIME_S = 600
_VACATE_S = 6.0
"""The joiner asks again after that."""
_DOWN_S = 3.0
_COMMAND_S = 5.0
_ADDRESSES_MAX = 16

Commit = Callable[[Command, str, float], Awaitable[Answer]]


# --- the node that comes back --------------------------------------------------------------------


def own_token(settings: Settings, bootstrap: Bootstrap | None) -> tuple[JoinToken, Identity]:
    """Return a token made of what this node still has, and who it was.

    Raises:
        Conflict: ``token-needed``, it does not have enough.
        InvalidConfig: its certificate or key is damaged.
    """
    if bootstrap is None:
        raise _needs_token("this machine does not know its cluster any more")
    identity = load_identity(settings.config)
    found: list[str] = []
    with suppress(StorageError):  # damaged: there are other places to learn it from
        locked = load_lockout(settings.state, bootstrap.storage)
        found += locked.addresses if locked is not None else ()
    found += [address for peer in bootstrap.peers for address in peer.addresses if address]
    found += _in_log(settings, bootstrap)
    addresses = tuple(dict.fromkeys(found))[:_ADDRESSES_MAX]
    if not addresses:
        raise _needs_token("this node does not know where the others are")
    token = JoinToken(
        cluster=bootstrap.cluster,
        name=bootstrap.cluster_name,
        port=bootstrap.port,
        addresses=addresses,
        authority=fingerprint_of_pem(identity.authority_certificate),
        secret=new_secret(),
    )
    return token, identity


def invitation(
    settings: Settings,
    bootstrap: Bootstrap | None,
    request: JoinRequestView,
    name: str,
    vacate: Callable[[], Awaitable[None]] | None,
) -> tuple[JoinToken, forming.Place | None]:
    """Return the token of a join, given or made of what this node still has, and whose place.

    Raises:
        LeitwolfError: see :func:`own_token` and :func:`leitwolf.peers.token.parse_token`.
    """
    if request.token:
        replacing = vacate is not None or request.replace
        return parse_token(request.token), forming.Place(vacate=vacate) if replacing else None
    token, identity = own_token(settings, bootstrap)
    secret = forming.begun_secret(settings.state, name) or token.secret
    former = (identity.certificate, identity.key)
    return msgspec.structs.replace(token, secret=secret), forming.Place(former, vacate)


def _needs_token(text: str) -> Conflict:
    return Conflict(
        text,
        code="token-needed",
        hint="on another node: leitwolf node replace NODE; here: leitwolf rejoin TOKEN",
    )


def _in_log(settings: Settings, bootstrap: Bootstrap) -> list[str]:
    """Return addresses of other nodes from what can be read of the log."""
    found: list[str] = []
    try:
        for line in dump(settings.quorum_log):
            change = line.get("change")
            for event in change.get("events", ()) if isinstance(change, dict) else ():
                if event.get("kind") == "NodeAdded" and event["node"] != bootstrap.node:
                    found += event["addresses"].values()
    except (LeitwolfError, OSError):
        pass  # it is damaged: what was found is as good as nothing else
    return found


# --- the cluster that lets it in -----------------------------------------------------------------


async def vouch(
    cluster: Cluster, request: JoinRequest, by: str, commit: Commit
) -> Rejection | None:
    """Open the token of a caller who proves to be a node of this cluster; return why not.

    Raises:
        LeitwolfError: the leader did not answer.
    """
    state = cluster.node.state
    token = digest(request.secret)
    if not request.proof or token in state.tokens:
        return None
    if any(node.token == token for node in state.nodes.values()):
        return None  # let in before; its answer was lost
    try:
        shown = fingerprint_of_pem(request.certificate)
    except ValueError:
        shown = ""
    known = any(
        node.fingerprint == shown and node.name == request.name for node in state.nodes.values()
    )
    statement = request.stated(state.uuid)
    from leitwolf.peers.authority import signed_by  # noqa: PLC0415 — x509 costs 10 MiB

    genuine = await asyncio.to_thread(signed_by, request.certificate, statement, request.proof)
    if not known or not genuine:
        return Rejection(
            code=Code.PROOF_WRONG,
            text=f"the caller cannot show that it was {request.name}",
            hint=f"leitwolf node replace {request.name}, then there: leitwolf rejoin TOKEN",
        )
    answer = await commit(IssueToken(digest=token, lifetime_s=_PROOF_LIFETIME_S), by, _COMMAND_S)
    return _refused(answer)


async def make_room(
    cluster: Cluster, request: JoinRequest, by: str, commit: Commit
) -> Rejection | None:
    """Have the node evicted that a joiner replaces, and wait for it; return why not.

    Raises:
        LeitwolfError: the leader did not answer.
    """
    former = _former(cluster, request)
    if not request.replace or former is None:
        return None
    if not await _until(cluster, request, lambda node: not node.up, _DOWN_S):
        return Rejection(
            code=Code.NODE_ALIVE,
            text=f"{former.name} is up and takes part: it is another machine than this one",
            hint="give this node another name: --node-name",
        )
    state = cluster.node.state
    disk = state.wish.witness
    if disk is not None and 0 < disk.slots <= state.node_serial:
        return Rejection(
            code="no-disk-slot",
            text=f"the next node has number {state.node_serial + 1}, and {disk.location} has "
            f"places for nodes 1..{disk.slots}",
            hint=f"{place_hint(state.node_serial + 1)}; then ask again",
        )
    evict = EvictNode(node=former.id, replaced=True)
    rejection = _refused(await commit(evict, by, _COMMAND_S))
    if rejection is not None:
        return rejection
    if await _until(cluster, request, lambda _: False, _VACATE_S):
        return None
    return Rejection(
        code=Code.STILL_LEAVING,
        text=f"the former {former.name} is being evicted",
        hint="ask again in some seconds",
    )


def _former(cluster: Cluster, request: JoinRequest) -> Node | None:
    for node in cluster.node.state.nodes.values():
        if node.name == request.name and node.uuid != request.uuid:
            return node
    return None


async def _until(
    cluster: Cluster, request: JoinRequest, done: Callable[[Node], bool], timeout_s: float
) -> bool:
    """Wait until the former node is as wanted, or gone."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while (former := _former(cluster, request)) is not None and not done(former):
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        await cluster.timeline.wait_beyond(cluster.node.state.index, min(left, 0.5))
    return True


def _refused(answer: Answer) -> Rejection | None:
    refusal = answer.refusal
    if refusal is None:
        return None
    code = Code.NO_QUORUM if refusal.retryable else refusal.code
    return Rejection(code=code, text=refusal.text, hint=refusal.hint)
