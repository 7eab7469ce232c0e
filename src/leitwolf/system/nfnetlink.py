"""The words of nftables on netlink: tables, chains, sets, rules and transactions.

Only encoders and the few decoders that :mod:`leitwolf.system.gate` needs; numbers are those of
``linux/netfilter/nf_tables.h`` (stable since Linux 4.18). Standard library only: the guard
imports this.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from leitwolf.system.rawnetlink import (
    ACKNOWLEDGE,
    APPEND,
    CREATE,
    EXCLUSIVE,
    REQUEST,
    Channel,
    attribute,
    decode_attributes,
    message,
    nest,
    text,
)

__all__ = [
    "DROP",
    "GENERIC_HEADER_BYTES",
    "JUMP",
    "NETFILTER",
    "RETURN",
    "SET_NUMBER",
    "Batch",
    "Kind",
    "Prepared",
    "Request",
    "add_base_chain",
    "add_chain",
    "add_elements",
    "add_rule",
    "add_set",
    "add_table",
    "compare",
    "counter",
    "delete_elements",
    "delete_table",
    "element_keys",
    "encode_batch",
    "generic",
    "load_meta",
    "load_payload",
    "lookup",
    "subsystem_kind",
    "table_names",
    "transact",
    "verdict",
]

NETFILTER: Final = 12
"""Netlink protocol NETLINK_NETFILTER."""
GENERIC_HEADER_BYTES: Final = 4
_GENERIC = struct.Struct(">BBH")
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 16, 17


class Kind:
    """Message kinds of the subsystem."""

    NEW_TABLE, GET_TABLE, DELETE_TABLE = 0, 1, 2
    NEW_CHAIN, GET_CHAIN, DELETE_CHAIN = 3, 4, 5
    NEW_RULE, GET_RULE, DELETE_RULE = 6, 7, 8
    NEW_SET, GET_SET, DELETE_SET = 9, 10, 11
    NEW_ELEMENT, GET_ELEMENT, DELETE_ELEMENT = 12, 13, 14
    NEW_GENERATION, GET_GENERATION = 15, 16


DROP: Final = 0
JUMP: Final = -3
RETURN: Final = -5

_REGISTER = 1
"""The only register in use, 16 bytes: enough for an IPv6 address."""
_USERDATA_COMMENT = 0
_SET_TIMEOUT = 0x10
_CHUNK = 512
"""Elements per message: an attribute holds 64 KiB at most."""
SET_NUMBER: Final = 10
"""The one attribute of a set that the kernel does not tell again."""

_KEY, _TIMEOUT = 1, 4
_TIMEOUT_HEADER = struct.pack("=HH", 12, _TIMEOUT)
"""What stands before the eight bytes of an element's timeout (ms, big endian)."""


class Request(NamedTuple):
    """One message of a transaction."""

    kind: int
    family: int
    flags: int
    body: bytes


Batch = list[Request]


def subsystem_kind(kind: int) -> int:
    """Return the netlink message type of a kind of this subsystem."""
    return _SUBSYSTEM << 8 | kind


def generic(family: int, resource: int = 0) -> bytes:
    """Return the header that every netfilter message begins with."""
    return _GENERIC.pack(family, 0, resource)


def encode_batch(requests: Sequence[Request], sequence: int) -> bytes:
    """Return the requests as one transaction; the last one asks for an acknowledgement.

    All messages bear ``sequence``; a success is answered once, a refusal once for each culprit.
    """
    last = len(requests) - 1
    parts = [message(_BATCH_BEGIN, REQUEST, 0, generic(0, _SUBSYSTEM))]
    for index, one in enumerate(requests):
        flags = one.flags | REQUEST | (ACKNOWLEDGE if index == last else 0)
        body = generic(one.family) + one.body
        parts.append(
            message(subsystem_kind(one.kind), flags, sequence if index == last else 0, body)
        )
    parts.append(message(_BATCH_END, REQUEST, 0, generic(0, _SUBSYSTEM)))
    return b"".join(parts)


# --- objects -------------------------------------------------------------------------------------


def table_names(channel: Channel) -> list[str]:
    """Return the names of all tables, once for each family that has one.

    Raises:
        OSError: the kernel has no nf_tables, or this user may not ask it (EPERM).
    """
    found: list[str] = []
    for reply in channel.dump(subsystem_kind(Kind.GET_TABLE), generic(0)):
        values = dict(decode_attributes(reply.body[GENERIC_HEADER_BYTES:]))
        found.append(values.get(1, b"").rstrip(b"\0").decode(errors="replace"))
    return found


def add_table(family: int, table: str, comment: str = "") -> Request:
    """Add a table, or do nothing when it is there."""
    body = text(1, table) + attribute(2, struct.pack(">I", 0))
    if comment:
        value = comment.encode() + b"\0"
        body += attribute(6, bytes((_USERDATA_COMMENT, len(value))) + value)
    return Request(Kind.NEW_TABLE, family, CREATE, body)


def delete_table(family: int, table: str) -> Request:
    """Delete a table with everything in it."""
    return Request(Kind.DELETE_TABLE, family, 0, text(1, table))


def add_base_chain(
    family: int, table: str, chain: str, *, hook: int, priority: int, device: str = ""
) -> Request:
    """Add a filter chain that the kernel calls at ``hook`` (of ``device``); it accepts."""
    where = attribute(1, struct.pack(">I", hook)) + attribute(2, struct.pack(">i", priority))
    body = (
        text(1, table)
        + text(3, chain)
        + nest(4, where, text(3, device) if device else b"")
        + attribute(5, struct.pack(">I", 1))
        + text(7, "filter")
    )
    return Request(Kind.NEW_CHAIN, family, CREATE, body)


def add_chain(family: int, table: str, chain: str) -> Request:
    """Add a chain that other chains jump to."""
    return Request(Kind.NEW_CHAIN, family, CREATE, text(1, table) + text(3, chain))


def add_set(
    family: int,
    table: str,
    name: str,
    *,
    key_type: int,
    key_bytes: int,
    number: int,
    timeout_ms: int = 0,
) -> Request:
    """Add a hash set.

    Args:
        family: NFPROTO of the table.
        table: its name.
        name: name of the set.
        key_type: number by which ``nft`` knows how to show the keys.
        key_bytes: length of a key.
        number: any number that no other set of the transaction has.
        timeout_ms: elements may run out, and do so after this by default; 0: they never do.
    """
    body = text(1, table) + text(2, name)
    body += attribute(4, struct.pack(">I", key_type)) + attribute(5, struct.pack(">I", key_bytes))
    body += attribute(SET_NUMBER, struct.pack(">I", number))
    if timeout_ms:
        body += attribute(3, struct.pack(">I", _SET_TIMEOUT))
        body += attribute(11, struct.pack(">Q", timeout_ms))
    return Request(Kind.NEW_SET, family, CREATE, body)


def add_rule(family: int, table: str, chain: str, *expressions: bytes) -> Request:
    """Append a rule."""
    body = text(1, table) + text(2, chain) + nest(4, *(nest(1, one) for one in expressions))
    return Request(Kind.NEW_RULE, family, CREATE | APPEND, body)


def _elements(table: str, name: str, keys: Sequence[bytes], timeout: bytes) -> bytes:
    members = (nest(1, nest(_KEY, attribute(1, key)) + timeout) for key in keys)
    return text(1, table) + text(2, name) + nest(3, *members)


def _chunks(keys: Iterable[bytes]) -> list[list[bytes]]:
    every = list(keys)
    return [every[i : i + _CHUNK] for i in range(0, len(every), _CHUNK)]


def add_elements(
    family: int,
    table: str,
    name: str,
    keys: Iterable[bytes],
    *,
    timeout_ms: int = 0,
    exclusive: bool = False,
) -> Batch:
    """Add elements; one that is there stays as it is, or fails with EEXIST when ``exclusive``."""
    timeout = _TIMEOUT_HEADER + struct.pack(">Q", timeout_ms) if timeout_ms else b""
    flags = CREATE | (EXCLUSIVE if exclusive else 0)
    return [
        Request(Kind.NEW_ELEMENT, family, flags, _elements(table, name, chunk, timeout))
        for chunk in _chunks(keys)
    ]


def delete_elements(
    family: int, table: str, name: str, keys: Iterable[bytes] | None = None
) -> Batch:
    """Delete elements (ENOENT when one is not there), or with None all that there are."""
    if keys is None:
        return [Request(Kind.DELETE_ELEMENT, family, 0, text(1, table) + text(2, name))]
    return [
        Request(Kind.DELETE_ELEMENT, family, 0, _elements(table, name, chunk, b""))
        for chunk in _chunks(keys)
    ]


def element_keys(body: bytes) -> list[bytes]:
    """Return the keys in one message of a dump of elements."""
    found: list[bytes] = []
    for kind, members in decode_attributes(body[GENERIC_HEADER_BYTES:]):
        if kind == 3:
            for _, member in decode_attributes(members):
                found += [
                    value
                    for part, data in decode_attributes(member)
                    if part == _KEY
                    for _, value in decode_attributes(data)
                ]
    return found


# --- expressions ---------------------------------------------------------------------------------


def _expression(name: str, *parts: bytes) -> bytes:
    return text(1, name) + nest(2, *parts)


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">i", value))


def load_payload(base: int, offset: int, length: int) -> bytes:
    """Load ``length`` bytes of the packet (base 1: network header, 2: transport header)."""
    parts = (_number(1, _REGISTER), _number(2, base), _number(3, offset), _number(4, length))
    return _expression("payload", *parts)


def load_meta(key: int) -> bytes:
    """Load a property of the packet (1: Ethernet type, 15: family, 16: transport protocol)."""
    return _expression("meta", _number(2, key), _number(1, _REGISTER))


def compare(value: bytes) -> bytes:
    """Go on only when what was loaded equals ``value``."""
    return _expression("cmp", _number(1, _REGISTER), _number(2, 0), nest(3, attribute(1, value)))


def lookup(name: str) -> bytes:
    """Go on only when what was loaded is in the set."""
    return _expression("lookup", text(1, name), _number(2, _REGISTER))


def counter() -> bytes:
    """Count packets and bytes that come here."""
    return _expression("counter")


def verdict(code: int, chain: str = "") -> bytes:
    """End with a verdict."""
    target = text(2, chain) if chain else b""
    return _expression("immediate", _number(1, 0), nest(2, nest(2, _number(1, code) + target)))


def transact(channel: Channel, requests: Sequence[Request]) -> None:
    """Have the kernel do all of the requests at once, or none.

    Raises:
        OSError: the kernel refused; errno is that of the first request at fault.
    """
    with channel.lock:
        sequence = channel.next_sequence()
        channel.transact(encode_batch(requests, sequence), sequence)


class Prepared:
    """A transaction that is encoded once and sent often, with a new timeout in its elements."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._batch = bytearray(encode_batch(requests, 0))
        self._timeouts: list[int] = []
        at = self._batch.find(_TIMEOUT_HEADER)
        while at >= 0:
            self._timeouts.append(at + len(_TIMEOUT_HEADER))
            at = self._batch.find(_TIMEOUT_HEADER, at + 1)
        starts = [0]
        while (end := starts[-1] + struct.unpack_from("=I", self._batch, starts[-1])[0]) < len(
            self._batch
        ):
            starts.append(end)
        self._sequence_at = starts[-2] + 8

    def send(self, channel: Channel, timeout_ms: int = 0) -> None:
        """Send it with this timeout (ms).

        Raises:
            OSError: as :func:`transact`.
        """
        with channel.lock:
            for at in self._timeouts:
                struct.pack_into(">Q", self._batch, at, timeout_ms)
            sequence = channel.next_sequence()
            struct.pack_into("=I", self._batch, self._sequence_at, sequence)
            channel.transact(self._batch, sequence)
