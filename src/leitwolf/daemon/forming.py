"""Forming a cluster, joining one, admitting a joiner."""

from __future__ import annotations

import asyncio
import ipaddress
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from leitwolf.core.lease.profile import MILLISECOND, PROFILES, ProfileError
from leitwolf.daemon.bootstrap import Bootstrap, save_bootstrap
from leitwolf.daemon.kept import read_note
from leitwolf.model.errors import InvalidConfig, LeitwolfError, StorageError
from leitwolf.model.events import (
    Cause,
    Change,
    ClusterFormed,
    Event,
    NetworkSet,
    NodeAdded,
    QuorumChanged,
    QuorumWished,
)
from leitwolf.model.ids import NodeId
from leitwolf.model.log import CommitRecord, Entry, EntryRecord, PromisedRecord
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig, QuorumWish
from leitwolf.peers.frames import Code, JoinGrant, JoinRequest
from leitwolf.peers.identity import Identity, fingerprint_of_pem, save_identity
from leitwolf.peers.token import JoinToken, digest
from leitwolf.state import encode_change
from leitwolf.store import QuorumLog, StoreIdentity, quarantine
from leitwolf.system.durable import remove_durably, write_durably
from leitwolf.system.interfaces import interface_addresses
from leitwolf.system.progress import Flag, Slot
from leitwolf.system.settings import Settings
from leitwolf.wire.ballot import Ballot

if TYPE_CHECKING:
    from leitwolf.peers.join import Joiner, Unanswered

__all__ = [
    "Founder",
    "Joined",
    "Place",
    "addresses_on",
    "begun_secret",
    "best_profile",
    "ensure_folders",
    "establish",
    "forget_joining",
    "form",
    "issue",
    "join",
    "verify_profile",
]

_JOINING = "joining.json"
_LEAVING_S = 60.0
"""Evicting a node takes R and more, at the slowest profile ten seconds."""
_FIRST = Ballot(0, 1, 1)
_FIRST_NODE = NodeId(1)


def ensure_folders(settings: Settings) -> None:
    """Make the folders of this node, for its user alone.

    Raises:
        StorageError: one cannot be made.
    """
    for folder in (settings.state, settings.config):
        try:
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{folder} cannot be made: {error.strerror}") from error


def verify_profile(name: str, guard: Slot) -> None:
    """Refuse a profile that there is not, or that this machine cannot hold.

    Raises:
        InvalidConfig: names the rule, what it needs and what the machine shows.
    """
    if name not in PROFILES:
        text = f"profile = {name!r}, possible are {', '.join(PROFILES)}"
        raise InvalidConfig(text, field="profile")
    realtime = bool(guard.flags & Flag.REALTIME)
    try:
        PROFILES[name].verify_on(realtime=realtime, stall_ms=_stall_ms(guard))
    except ProfileError as error:
        how = "use the profile virtual" if realtime else "run as root, or use the profile virtual"
        raise InvalidConfig(str(error), field="profile", hint=how) from error


def _stall_ms(guard: Slot) -> int:
    return -(-guard.extra // MILLISECOND)


def best_profile(guard: Slot) -> tuple[str, str]:
    """Return the profile to form a cluster with that names none: the shorter one that holds.

    And why it is not the shorter one, '' where it is.
    """
    try:
        verify_profile("default", guard)
    except InvalidConfig as error:
        return "virtual", error.text
    return "default", ""


def form(
    settings: Settings,
    *,
    name: str,
    node_name: str,
    profile: str,
    port: int,
    networks: list[NetworkSet],
    addresses: Mapping[str, str],
    dynamic: bool,  # votes follow who is there
) -> Bootstrap:
    """Write the log of a cluster of one; see :func:`establish`."""

    def first(me: Founder) -> list[Change]:
        events: list[Event] = [
            ClusterFormed(
                uuid=me.cluster, name=name, profile=profile, port=port, authority=me.authority
            ),
            *networks,
            me.added(node_name, addresses),
            QuorumWished(wish=QuorumWish(dynamic=dynamic)),
            QuorumChanged(stage="final", text=f"{node_name} alone"),
        ]
        because = Cause(code="formed", text=f"{node_name} formed the cluster {name}")
        by = f"root@{node_name}"
        change = Change(events=tuple(events), because=because, by=by, time=0, wall=time.time_ns())
        return [change]

    cluster = str(uuid.uuid4())
    return establish(settings, first, cluster=cluster, name=name, node_name=node_name, port=port)


class Founder(NamedTuple):
    """The first node of a cluster, as its log is to know it."""

    cluster: str
    uuid: str
    storage: str
    fingerprint: str
    authority: bytes
    """Certificate of the cluster's authority."""

    def added(self, name: str, addresses: Mapping[str, str]) -> NodeAdded:
        """Return the event that adds it."""
        return NodeAdded(
            node=_FIRST_NODE,
            name=name,
            uuid=self.uuid,
            storage=self.storage,
            addresses=dict(addresses),
            fingerprint=self.fingerprint,
        )


def establish(
    settings: Settings,
    changes_of: Callable[[Founder], list[Change]],
    *,
    cluster: str,
    name: str,
    node_name: str,
    port: int,
) -> Bootstrap:
    """Write a cluster of one whose log begins with these changes; the bootstrap file completes it.

    Raises:
        InvalidConfig: the port is out of range.
        StorageError, OSError: a folder or file cannot be written.
    """
    from leitwolf.peers.authority import create_identity  # noqa: PLC0415 — x509 costs 10 MiB

    if not 1 <= port <= 65_535:
        raise InvalidConfig(f"port = {port}, allowed is 1..65535", field="port")
    ensure_folders(settings)
    node, storage = str(uuid.uuid4()), str(uuid.uuid4())
    identity = create_identity(cluster, node)
    me = Founder(
        cluster=cluster,
        uuid=node,
        storage=storage,
        fingerprint=fingerprint_of_pem(identity.certificate),
        authority=identity.authority_certificate,
    )
    config = QuorumConfig(acceptors=(Acceptor(id=AcceptorId(_FIRST_NODE, storage)),))
    entries = [
        EntryRecord(
            entry=Entry(
                index=index,
                ballot=_FIRST,
                payload=encode_change(change),
                config=config if index == 1 else None,
            )
        )
        for index, change in enumerate(changes_of(me), 1)
    ]
    save_identity(settings.config, identity)
    _remove_unfinished(settings)
    store = QuorumLog.create(
        settings.quorum_log, StoreIdentity(cluster=cluster, node=_FIRST_NODE, storage=storage)
    )
    try:
        store.write([PromisedRecord(ballot=_FIRST)])
        for entry in entries:
            store.write([entry])
        store.write([CommitRecord(index=len(entries))])
        store.sync()
    finally:
        store.close()
    bootstrap = Bootstrap(
        node=_FIRST_NODE,
        name=node_name,
        uuid=node,
        cluster=cluster,
        cluster_name=name,
        storage=storage,
        port=port,
    )
    save_bootstrap(settings.state, bootstrap)
    return bootstrap


class Place(NamedTuple):
    """In whose place a node joins."""

    former: tuple[bytes, bytes] | None = None
    """Certificate and key (PEM) of the node that it was, if it has them still."""
    vacate: Callable[[], Awaitable[None]] | None = None
    """Sets aside what is here, once the cluster has let the node in."""


class Joined(NamedTuple):
    """What became of a join."""

    bootstrap: Bootstrap
    grant: JoinGrant
    unanswered: tuple[Unanswered, ...]
    """Guards that were not reached by UDP before this node's own one took part."""


async def join(
    settings: Settings,
    token: JoinToken,
    name: str,
    guard: Slot,
    progress: Callable[[str], None],
    place: Place | None = None,
) -> Joined:
    """Join the cluster of a token and write what was granted.

    Raises:
        LeitwolfError: see :func:`leitwolf.peers.join.request_join`.
    """
    from leitwolf.peers.authority import new_node_key  # noqa: PLC0415 — x509 costs 10 MiB
    from leitwolf.peers.join import Joiner, check_udp, identity_of  # noqa: PLC0415

    ensure_folders(settings)
    trial = _begun(settings.state, token, name)
    if trial is None:
        node = str(uuid.uuid4())
        key = await asyncio.to_thread(new_node_key, node)
        trial = _Trial(
            token=digest(token.secret),
            name=name,
            uuid=node,
            storage=str(uuid.uuid4()),
            key=key.key,
            request=key.request,
            secret=token.secret if place is not None and place.former else b"",
        )
        # Asked again after a lost answer, this node must be the same one.
        write_durably(settings.state / _JOINING, msgspec.json.encode(trial))
    joiner = Joiner(
        name=name,
        uuid=trial.uuid,
        storage=trial.storage,
        request=trial.request,
        addresses={item.subnet: item.address for item in interface_addresses()},
        realtime=bool(guard.flags & Flag.REALTIME),
        stall_ms=_stall_ms(guard),
        replace=place is not None,
        former=place.former if place is not None else None,
    )
    grant = await _granted(token, joiner, progress)
    if place is not None and place.vacate is not None:
        await place.vacate()
    unanswered = await check_udp(grant)
    for one in unanswered:
        progress(one.text)
    save_identity(settings.config, identity_of(grant, trial.key))
    _remove_unfinished(settings)
    store = QuorumLog.create(
        settings.quorum_log,
        StoreIdentity(cluster=grant.cluster, node=grant.node, storage=trial.storage),
    )
    store.close()
    bootstrap = Bootstrap.of_grant(grant, name=name, uuid=trial.uuid, storage=trial.storage)
    save_bootstrap(settings.state, bootstrap)
    return Joined(bootstrap, grant, unanswered)


async def _granted(token: JoinToken, joiner: Joiner, progress: Callable[[str], None]) -> JoinGrant:
    """Ask until the former node of this name is out of the way."""
    from leitwolf.peers.join import request_join  # noqa: PLC0415 — x509 costs 10 MiB

    deadline = time.monotonic() + _LEAVING_S
    while True:
        try:
            return await request_join(token, joiner, progress)
        except LeitwolfError as error:
            if error.code != Code.STILL_LEAVING or time.monotonic() > deadline:
                raise
            progress(error.text)
            await asyncio.sleep(1)


def forget_joining(state: Path) -> None:
    """Whoever it asked to join as takes part from now on, and is never asked for again.

    Raises:
        OSError: as the file system says.
    """
    remove_durably(state / _JOINING)


def begun_secret(state: Path, name: str) -> bytes:
    """Return the secret with which this node asked for its own place before, b'': it did not."""
    found = read_note(state / _JOINING, _Trial)
    return found.secret if found is not None and found.name == name else b""


class _Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As whom this node asked to join, kept until it is in."""

    token: str
    name: str
    uuid: str
    storage: str
    key: bytes
    request: bytes
    secret: bytes = b""
    """Of a node that comes back by what it has; '' with a token, which its operator has."""


def _begun(state: Path, token: JoinToken, name: str) -> _Trial | None:
    """Return as whom this node asked with the same token before, if it did."""
    found = read_note(state / _JOINING, _Trial)
    if found is None or (found.token, found.name) != (digest(token.secret), name):
        return None
    return found


def _remove_unfinished(settings: Settings) -> None:
    """Set aside a log that stands without a bootstrap file: of a join that was cut off."""
    if settings.quorum_log.exists():
        quarantine(settings.quorum_log)


def issue(identity: Identity, request: JoinRequest) -> bytes:
    """Issue the certificate of a joiner (PEM).

    Raises:
        InvalidConfig: its request is damaged.
    """
    from leitwolf.peers.authority import issue_certificate  # noqa: PLC0415 — x509 costs 10 MiB

    return issue_certificate(
        identity.authority_certificate, identity.authority_key, request.request, request.uuid
    )


def addresses_on(
    networks: Iterable[tuple[str, tuple[str, ...]]], offered: Mapping[str, str]
) -> dict[str, str]:
    """Return which of a joiner's addresses lies on which network, IPv4 before IPv6."""
    found: dict[str, str] = {}
    for name, subnets in networks:
        spans = [ipaddress.ip_network(subnet) for subnet in subnets]
        inside = [
            address
            for address in offered.values()
            if any(ipaddress.ip_address(address) in span for span in spans)
        ]
        inside.sort(key=lambda address: ":" in address)
        if inside:
            found[name] = inside[0]
    return found
