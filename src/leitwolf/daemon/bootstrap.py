"""What a node that has just joined must know before the log reaches it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from leitwolf.daemon.kept import read_kept
from leitwolf.peers.frames import JoinGrant
from leitwolf.system.durable import write_durably
from leitwolf.wire.lineage import Lineage

__all__ = ["BOOTSTRAP_NAME", "Bootstrap", "Peer", "load_bootstrap", "save_bootstrap"]

BOOTSTRAP_NAME = "bootstrap.json"


class Peer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another node: where it is and by which certificate it is known."""

    node: int
    fingerprint: str
    addresses: tuple[str, ...]
    """On each interconnect, in the order of the links; '' where it has none."""


class Bootstrap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """This node in its cluster, as the grant or the forming said; the log says more, later."""

    node: int
    name: str
    uuid: str
    cluster: str
    cluster_name: str
    storage: str
    port: int
    addresses: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    lineage: Lineage = ()
    """History in which this storage began."""
    replaces: tuple[str, ...] = ()
    """Storages of this node that it set aside for a later history."""

    @classmethod
    def of_grant(cls, grant: JoinGrant, *, name: str, uuid: str, storage: str) -> Bootstrap:
        """Return what a join granted."""
        return cls(
            node=grant.node,
            name=name,
            uuid=uuid,
            cluster=grant.cluster,
            cluster_name=grant.cluster_name,
            storage=storage,
            port=grant.port,
            addresses=tuple(grant.addresses.get(link, "") for link in grant.links),
            peers=tuple(
                Peer(
                    node=member.node,
                    fingerprint=member.fingerprint,
                    addresses=tuple(member.addresses.get(link, "") for link in grant.links),
                )
                for member in grant.members
            ),
            lineage=grant.lineage,
        )


def save_bootstrap(state: Path, bootstrap: Bootstrap) -> None:
    """Write it durably; it is the last file of a join or a forming and makes it complete.

    Raises:
        OSError: the state directory cannot be written.
    """
    text = msgspec.json.format(msgspec.json.encode(bootstrap), indent=1)
    write_durably(state / BOOTSTRAP_NAME, text)


def load_bootstrap(state: Path) -> Bootstrap | None:
    """Return it, None on a node in no cluster.

    Raises:
        StorageError: ``bootstrap-damaged``, or it cannot be read.
    """
    return read_kept(state / BOOTSTRAP_NAME, Bootstrap, code="bootstrap-damaged")
