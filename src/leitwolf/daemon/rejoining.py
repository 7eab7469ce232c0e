"""Coming back in the place of a node that lost its storage: what it still has, and who lets it in.

Rules:

- Only a node that is down and named is replaced, and only on request: a live one of that name is
  another machine.
- The former node is evicted first, as always: nothing of it runs, its vote is gone, its number is
  never used again. The new one gets its name, and its place among the preferred owners.
- Who has no token may come with the certificate of the node that it was and a signature by its key;
  that counts as long as the log knows the certificate.
- What is here is set aside only when the cluster has let the new node in.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import msgspec

from leitwolf.daemon import forming
from leitwolf.daemon.bootstrap import Bootstrap
from leitwolf.daemon.cluster import Cluster
from leitwolf.daemon.departure import load_lockout
from leitwolf.model.commands import Answer, ChangeGroup, Command, EvictNode, IssueToken
from leitwolf.model.errors import Conflict, LeitwolfError, StorageError
from leitwolf.model.ids import GroupId, NodeId
from leitwolf.model.state import Node, State
from leitwolf.model.views import JoinRequestView
from leitwolf.peers.frames import Code, JoinRequest, Rejection
from leitwolf.peers.identity import Identity, fingerprint_of_pem, load_identity
from leitwolf.peers.token import JoinToken, digest, new_secret, parse_token
from leitwolf.store import dump
from leitwolf.system.settings import Settings

__all__ = ["Vacancy", "invitation", "own_token", "vouch"]

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


class Vacancy:
    """The place of a node that is replaced."""

    def __init__(self, cluster: Cluster, request: JoinRequest, by: str, commit: Commit) -> None:
        self._cluster, self._request, self._by, self._commit = cluster, request, by, commit

    def _former(self) -> Node | None:
        request = self._request
        for node in self._cluster.node.state.nodes.values():
            if node.name == request.name and node.uuid != request.uuid:
                return node
        return None

    async def make(self) -> Rejection | None:
        """Have the former node evicted and wait for it; return why not.

        Raises:
            LeitwolfError: the leader did not answer.
        """
        former = self._former()
        if not self._request.replace or former is None:
            return None
        if not await self._until(lambda node: not node.up, _DOWN_S):
            return Rejection(
                code=Code.NODE_ALIVE,
                text=f"{former.name} is up and takes part: it is another machine than this one",
                hint="give this node another name: --node-name",
            )
        state = self._cluster.node.state
        disk = state.wish.witness
        if disk is not None and 0 < disk.slots <= state.node_serial:
            return Rejection(
                code="no-disk-slot",
                text=f"the next node has number {state.node_serial + 1}, and {disk.location} has "
                f"places for nodes 1..{disk.slots}",
                hint="leitwolf quorum replace LOCATION --nodes 64, on another disk; then ask again",
            )
        places = {
            group.id: group.preferred
            for group in state.groups.values()
            if former.id in group.preferred
        }
        if places and former.name not in self._cluster.vacated:
            self._cluster.vacated[former.name] = (former.id, places)
            # For people, should this daemon end before the new node is in.
            listed = "; ".join(
                f"{group}: {' '.join(state.nodes[node].name for node in preferred)}"
                for group, preferred in places.items()
            )
            self._cluster.record(
                f"{former.name} is being replaced; preferred owners until now: {listed}"
            )
        rejection = _refused(await self._commit(EvictNode(node=former.id), self._by, _COMMAND_S))
        if rejection is not None:
            return rejection
        if await self._until(lambda _: False, _VACATE_S):
            return None
        return Rejection(
            code=Code.STILL_LEAVING,
            text=f"the former {former.name} is being evicted",
            hint="ask again in some seconds",
        )

    async def _until(self, done: Callable[[Node], bool], timeout_s: float) -> bool:
        """Wait until the former node is as wanted, or gone."""
        cluster = self._cluster
        deadline = asyncio.get_running_loop().time() + timeout_s
        while (former := self._former()) is not None and not done(former):
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                return False
            await cluster.timeline.wait_beyond(cluster.node.state.index, min(left, 0.5))
        return True

    async def settle(self, number: NodeId) -> None:
        """Put the new node where the former one was among the preferred owners."""
        former, places = self._cluster.vacated.pop(self._request.name, (NodeId(0), {}))
        for group, preferred in places.items():
            wanted = _in_place(self._cluster.node.state, group, preferred, former, number)
            if not wanted:
                continue
            change = ChangeGroup(group=group, preferred=wanted)
            try:
                rejection = _refused(await self._commit(change, self._by, _COMMAND_S))
                why = rejection.text if rejection is not None else ""
            except LeitwolfError as error:
                why = error.text
            if why:  # the node is in all the same
                nodes = self._cluster.node.state.nodes
                options = " ".join(f"--prefer {nodes[node].name}" for node in wanted)
                self._cluster.record(
                    f"{self._request.name} did not get back its place among the preferred owners "
                    f"of {group}: {why}; then: leitwolf group set {group} {options}"
                )


def _in_place(
    state: State, group: GroupId, preferred: tuple[NodeId, ...], former: NodeId, number: NodeId
) -> tuple[NodeId, ...]:
    """Return the preferred owners with the new node in the former one's place; (): no change."""
    present = state.groups.get(group)
    expected = tuple(node for node in preferred if node != former and node in state.nodes)
    if present is None or present.preferred != expected:
        return ()  # changed meanwhile: whoever did it knew better
    renamed = (number if node == former else node for node in preferred)
    return tuple(node for node in renamed if node in state.nodes)


def _refused(answer: Answer) -> Rejection | None:
    refusal = answer.refusal
    if refusal is None:
        return None
    code = Code.NO_QUORUM if refusal.retryable else refusal.code
    return Rejection(code=code, text=refusal.text, hint=refusal.hint)
