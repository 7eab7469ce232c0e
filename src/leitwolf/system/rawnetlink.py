"""Netlink messages and sockets, as little as the guard needs. Standard library only.

Rules:
- A channel is a socket of the network namespace in which it was opened and stays there.
- A channel serves one exchange at a time (it holds a lock); threads that must not wait for each
  other open one each.
- The kernel answers within the system call that asks. A missing answer is an error, never awaited.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import NamedTuple

__all__ = [
    "ACKNOWLEDGE",
    "APPEND",
    "CREATE",
    "DUMP",
    "ERROR",
    "EXCLUSIVE",
    "HEADER_BYTES",
    "REQUEST",
    "Channel",
    "Message",
    "attribute",
    "contains",
    "decode_attributes",
    "decode_messages",
    "error_number",
    "message",
    "nest",
    "text",
]

REQUEST = 0x001
ACKNOWLEDGE = 0x004
DUMP = 0x300
EXCLUSIVE = 0x200
CREATE = 0x400
APPEND = 0x800

_NETLINK = 270
"""Level of the socket options (SOL_NETLINK)."""

_NOTHING, ERROR, _DONE = 1, 2, 3
_INTERRUPTED = 0x10
_NESTED = 0x8000
_KIND_MASK = 0x3FFF
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR_NUMBER = struct.Struct("=i")
HEADER_BYTES = _HEADER.size
_OPTION_CAP_ACKNOWLEDGE = 10
_RECEIVE_BYTES = 65536
_SEND_BYTES = 1 << 20
_DUMPS_MAX = 8
"""A dump that others changed meanwhile is taken again this often."""
_ANSWER_SECONDS = 2
"""A guard against waiting for ever; the kernel answers within the call."""


class Message(NamedTuple):
    """One netlink message as it came."""

    kind: int
    flags: int
    sequence: int
    sender: int
    """Port id of the socket whose request caused it; 0: the kernel itself."""
    body: bytes


def attribute(kind: int, payload: bytes) -> bytes:
    """Return one attribute, padded to four bytes.

    Raises:
        ValueError: the payload is longer than an attribute can be.
    """
    length = _ATTRIBUTE.size + len(payload)
    if length > 0xFFFF:
        raise ValueError(f"netlink attribute of {length} bytes")
    return _ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def text(kind: int, value: str) -> bytes:
    """Return an attribute that holds a string with its final zero byte."""
    return attribute(kind, value.encode() + b"\0")


def nest(kind: int, *parts: bytes) -> bytes:
    """Return an attribute made of attributes."""
    return attribute(kind | _NESTED, b"".join(parts))


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """Return a message padded to four bytes."""
    length = _HEADER.size + len(body)
    return _HEADER.pack(length, kind, flags, sequence, 0) + body + bytes(-length % 4)


def decode_attributes(data: bytes) -> list[tuple[int, bytes]]:
    """Return kind and payload of each attribute in ``data``.

    Raises:
        ValueError: an attribute does not fit into the data.
    """
    found: list[tuple[int, bytes]] = []
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size or at + length > len(data):
            raise ValueError(f"netlink attribute of {length} bytes at {at}, {len(data)} there")
        found.append((kind & _KIND_MASK, data[at + _ATTRIBUTE.size : at + length]))
        at += length + -length % 4
    return found


def contains(found: bytes, wanted: bytes, ignored: int = -1) -> bool:
    """Tell whether every attribute of ``wanted`` is in ``found`` with the same value.

    ``wanted`` was encoded here, so its nested attributes are marked as such. The kernel may add
    attributes of other kinds (handles, counters), but neither leave out nor repeat one.
    ``ignored`` is a kind that it does not tell again.
    """
    there: dict[int, list[bytes]] = {}
    for kind, payload in decode_attributes(found):
        there.setdefault(kind, []).append(payload)
    asked: dict[int, list[tuple[bool, bytes]]] = {}
    at = 0
    while at < len(wanted):
        length, kind = _ATTRIBUTE.unpack_from(wanted, at)
        payload = wanted[at + _ATTRIBUTE.size : at + length]
        asked.setdefault(kind & _KIND_MASK, []).append((bool(kind & _NESTED), payload))
        at += length + -length % 4
    asked.pop(ignored, None)
    for kind, values in asked.items():
        payloads = there.get(kind, [])
        if len(payloads) != len(values):
            return False
        for (nested, value), payload in zip(values, payloads, strict=True):
            if not (contains(payload, value) if nested else payload == value):
                return False
    return True


def decode_messages(data: bytes) -> Iterator[Message]:
    """Yield the messages of one datagram.

    Raises:
        ValueError: a message does not fit into the datagram.
    """
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, sender = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            raise ValueError(f"netlink message of {length} bytes at {at}, {len(data)} there")
        yield Message(kind, flags, sequence, sender, data[at + _HEADER.size : at + length])
        at += length + -length % 4


def error_number(reply: Message) -> int:
    """Return the errno of an error reply; 0: it acknowledges."""
    (negative,) = _ERROR_NUMBER.unpack_from(reply.body)
    return -int(negative)


def _failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Channel:
    """A netlink socket in the network namespace of the calling thread."""

    def __init__(self, protocol: int) -> None:
        self.lock = threading.Lock()
        self._sequence = 0
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol
        )
        self._socket.setsockopt(_NETLINK, _OPTION_CAP_ACKNOWLEDGE, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        self._socket.setsockopt(
            socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _ANSWER_SECONDS, 0)
        )
        self._socket.bind((0, 0))
        self.port: int = self._socket.getsockname()[0]

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def next_sequence(self) -> int:
        """Return a number for the next request, 1..2**31 - 1."""
        self._sequence = self._sequence % 0x7FFFFFFF + 1
        return self._sequence

    def transact(self, batch: bytes | bytearray, last_sequence: int) -> None:
        """Send a batch whose last request wants an acknowledgement, and read the outcome.

        The caller holds :attr:`lock`.

        Raises:
            OSError: the kernel refused the whole batch; errno is that of the first failure.
        """
        self._socket.send(batch)
        (reply,) = decode_messages(self._socket.recv(_RECEIVE_BYTES))
        if reply.kind == ERROR and reply.sequence == last_sequence and not error_number(reply):
            return
        first = error_number(reply) if reply.kind == ERROR else errno.EPROTO
        while more := self._waiting():
            for other in decode_messages(more):
                first = first or (error_number(other) if other.kind == ERROR else errno.EPROTO)
        raise _failure(first or errno.EPROTO)

    def _waiting(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""

    def request(self, kind: int, flags: int, body: bytes) -> list[Message]:
        """Ask for one thing and return the replies without the acknowledgement.

        Raises:
            OSError: the kernel refused.
        """
        with self.lock:
            return self._exchange(kind, flags | REQUEST | ACKNOWLEDGE, body)[0]

    def dump(self, kind: int, body: bytes) -> list[Message]:
        """Return a whole table as it was at one instant.

        Raises:
            OSError: the kernel refused, or the table changed at every try (EAGAIN).
        """
        with self.lock:
            for _ in range(_DUMPS_MAX):
                replies, whole = self._exchange(kind, REQUEST | DUMP, body)
                if whole:
                    return replies
        raise _failure(errno.EAGAIN)

    def _exchange(self, kind: int, flags: int, body: bytes) -> tuple[list[Message], bool]:
        sequence = self.next_sequence()
        self._socket.send(message(kind, flags, sequence, body))
        replies: list[Message] = []
        whole = True
        while True:
            for reply in decode_messages(self._socket.recv(_RECEIVE_BYTES)):
                if reply.sequence != sequence:
                    continue
                whole = whole and not reply.flags & _INTERRUPTED
                if reply.kind in (ERROR, _DONE):
                    number = error_number(reply) if reply.body else 0
                    if number:
                        raise _failure(number)
                    return replies, whole
                if reply.kind != _NOTHING:
                    replies.append(reply)
