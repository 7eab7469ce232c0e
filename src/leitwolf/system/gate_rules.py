"""What the gate is made of: tables, sets, chains and rules, by family (:mod:`.gate`).

Only the description; nothing here talks to the kernel. Standard library only: the guard imports
this.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from leitwolf.system import nfnetlink as nft

__all__ = [
    "AFTER_ALL",
    "ARP",
    "DEVICE",
    "FAMILIES",
    "IP",
    "IP6",
    "LEASE_KEY",
    "RUN_DEFAULT_MS",
    "Family",
    "structure",
]

_BEFORE_ALL, AFTER_ALL = -310, 310
RUN_DEFAULT_MS = 1000
"""An element that somebody adds by hand must run out as well."""
_META_PROTOCOL, _META_FAMILY, _META_TRANSPORT = 1, 15, 16
_NETWORK, _TRANSPORT = 1, 2
_ICMPV6 = 58
_NFT_TYPE_FAMILY, _NFT_TYPE_IPV4, _NFT_TYPE_IPV6 = 2, 7, 8
_NFT_TYPE_TWO_MARKS = 19 << 6 | 19
"""Eight bytes that ``nft`` can show: the upper and the lower half of a lease's id."""
LEASE_KEY = struct.Struct("=II")
IP, ARP, DEVICE, IP6 = 2, 3, 5, 10


class _Field(NamedTuple):
    """One place in a packet where an address stands."""

    name: str
    address: bytes
    """Expression that loads it."""
    condition: tuple[bytes, ...] = ()
    """Expressions that say whether the packet has it."""


class Family(NamedTuple):
    """One table: how its addresses are keyed, where it hooks in, where addresses stand."""

    protocol: int
    key_type: int
    key_bytes: int
    hooks: tuple[tuple[str, int, int], ...]
    """Name, number, priority."""
    fields: tuple[_Field, ...]


def _neighbour(name: str, kind: int) -> _Field:
    condition = (
        nft.load_meta(_META_TRANSPORT),
        nft.compare(bytes((_ICMPV6,))),
        nft.load_payload(_TRANSPORT, 0, 1),
        nft.compare(bytes((kind,))),
    )
    return _Field(name, nft.load_payload(_TRANSPORT, 8, 16), condition)


def _resolution(name: str, hardware_bytes: int, offset: int) -> _Field:
    condition = (nft.load_payload(_NETWORK, 4, 1), nft.compare(bytes((hardware_bytes,))))
    return _Field(name, nft.load_payload(_NETWORK, offset, 4), condition)


def _resolution_on_wire(name: str, hardware_bytes: int, offset: int) -> _Field:
    field = _resolution(name, hardware_bytes, offset)
    is_arp = (nft.load_meta(_META_PROTOCOL), nft.compare(b"\x08\x06"))
    return field._replace(condition=is_arp + field.condition)


_IP_HOOKS = (
    ("prerouting", 0, _BEFORE_ALL),
    ("output", 3, _BEFORE_ALL),
    ("postrouting", 4, AFTER_ALL),
)
FAMILIES = (
    Family(
        IP,
        _NFT_TYPE_IPV4,
        4,
        _IP_HOOKS,
        (
            _Field("source", nft.load_payload(_NETWORK, 12, 4)),
            _Field("destination", nft.load_payload(_NETWORK, 16, 4)),
        ),
    ),
    Family(
        IP6,
        _NFT_TYPE_IPV6,
        16,
        _IP_HOOKS,
        (
            _Field("source", nft.load_payload(_NETWORK, 8, 16)),
            _Field("destination", nft.load_payload(_NETWORK, 24, 16)),
            _neighbour("solicited", 135),
            _neighbour("advertised", 136),
        ),
    ),
    Family(
        ARP,
        _NFT_TYPE_IPV4,
        4,
        (("input", 0, _BEFORE_ALL), ("output", 1, _BEFORE_ALL)),
        (
            _resolution("sender", 6, 14),
            _resolution("target", 6, 24),
            _resolution("sender-infiniband", 20, 28),
            _resolution("target-infiniband", 20, 52),
        ),
    ),
    Family(
        DEVICE,
        _NFT_TYPE_IPV4,
        4,
        (),  # one for each interface: see Gate.cover
        (
            _resolution_on_wire("sender", 6, 14),
            _resolution_on_wire("sender-infiniband", 20, 28),
        ),
    ),
)
_LOAD_FAMILY = nft.load_meta(_META_FAMILY)


def structure(family: Family, table: str) -> nft.Batch:
    """Return the requests that make sets, chains and rules, the table excepted."""
    kind = family.protocol
    parts = [
        nft.add_set(
            kind, table, name, key_type=family.key_type, key_bytes=family.key_bytes, number=number
        )
        for number, name in enumerate(("managed", "held"), 1)
    ]
    parts.append(
        nft.add_set(
            kind,
            table,
            "run",
            key_type=_NFT_TYPE_FAMILY,
            key_bytes=1,
            number=3,
            timeout_ms=RUN_DEFAULT_MS,
        )
    )
    if kind == IP:
        parts.append(
            nft.add_set(
                kind,
                table,
                "lease",
                key_type=_NFT_TYPE_TWO_MARKS,
                key_bytes=LEASE_KEY.size,
                number=4,
            )
        )
    parts += [nft.add_chain(kind, table, field.name) for field in family.fields]
    parts.append(nft.add_chain(kind, table, "gate"))
    for name, hook, priority in family.hooks:
        parts.append(nft.add_base_chain(kind, table, name, hook=hook, priority=priority))
        parts.append(nft.add_rule(kind, table, name, nft.verdict(nft.JUMP, "gate")))
    for field in family.fields:
        found = (*field.condition, field.address)
        jump = nft.verdict(nft.JUMP, field.name)
        alive = (_LOAD_FAMILY, nft.lookup("run"), nft.verdict(nft.RETURN))
        drop = (nft.counter(), nft.verdict(nft.DROP))
        parts += [
            nft.add_rule(kind, table, "gate", *found, nft.lookup("managed"), jump),
            nft.add_rule(kind, table, field.name, *found, nft.lookup("held"), *alive),
            nft.add_rule(kind, table, field.name, *drop),
        ]
    return parts
