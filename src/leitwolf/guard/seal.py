"""The envelope of heartbeats: AES-256-GCM datagrams with protection against replay.

Layout (big endian), all of it before the ciphertext authenticated with it::

    magic 'LW' | version u8 | key id 4 | sender u16 | link u8 | boot salt 8 | counter u64
    ciphertext and 16 byte tag of one message of leitwolf.wire.heartbeat

Rules

- The session key is HKDF-SHA256 of the cluster key, the sender and the boot salt, 8 random bytes
  per guard process. The nonce is link and counter; the counter grows per link. So no nonce is ever
  used twice under one key, also over restarts, forks excepted: make the :class:`Sealer` after them.
- A datagram is taken at most once per session: 64 counters per (sender, salt, link) are kept.
- A few sessions per sender are open at a time. A new one displaces the one used least recently,
  and the salt of a displaced session is refused from then on.
- Everything that is not taken is counted by its reason and answered by nothing.

What this does not guarantee. An opener that restarted knows no salts, so recorded datagrams of an
earlier session can pass once more, and a datagram can be delivered to another node than the one
it was made for. Both are harmless by the rules of the lease core: grants and acks name the
incarnation of the guard that they are for and count from its own clock (L2, L5), lease ids and
ballots are never used twice, a released ballot stays released. What a replay can do is prolong a
promise to the owner of a ballot that is not outbid yet: it delays an election, it cannot make two
owners. Who holds the cluster key can write in the name of any node: rekey after an eviction in
anger.

Standard library and AES-GCM only: the guard imports this module.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = [
    "DATAGRAM_BYTES_MAX",
    "KEYS_MAX",
    "KEY_BYTES",
    "MESSAGE_BYTES_MAX",
    "Drops",
    "KeyRing",
    "Opener",
    "SealError",
    "Sealer",
]

KEY_BYTES = 32
KEYS_MAX = 4
"""Keys in a ring: the old and the new one of a rekey, and room for one that was interrupted."""
DATAGRAM_BYTES_MAX = 1_200
"""Fits every path MTU (IPv6 guarantees 1280), so no datagram is ever fragmented."""

_HEADER = struct.Struct(">2sB4sHB8sQ")
_MAGIC = b"LW"
_VERSION = 1
_TAG_BYTES = 16
_SALT_BYTES = 8
MESSAGE_BYTES_MAX = DATAGRAM_BYTES_MAX - _HEADER.size - _TAG_BYTES
_WINDOW = 64
_WINDOW_MASK = (1 << _WINDOW) - 1
_SESSIONS_OPEN_MAX = 8
"""Sessions of one sender at a time: its present guard, the one before, and room for replays."""
_SALTS_RETIRED_MAX = 1_024
"""Displaced salts that are remembered per sender, 100 KiB at most."""


class SealError(ValueError):
    """A key, node number, link or message is outside its range."""


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256 (RFC 5869).

    Not by ``hmac``: that would load a second OpenSSL, 4 MiB, beside the one of the ciphers.
    """
    return HKDF(hashes.SHA256(), length=32, salt=salt, info=info).derive(key)


def _session_cipher(key: bytes, sender: int, salt: bytes) -> AESGCM:
    return AESGCM(_hkdf(key, salt, b"leitwolf heartbeat 1" + sender.to_bytes(2, "big")))


def _nonce(link: int, counter: int) -> bytes:
    return link.to_bytes(4, "big") + counter.to_bytes(8, "big")


class KeyRing:
    """The cluster keys that are in force: the first one seals, all of them open.

    To rekey, first give every node the new key behind the old one, then put it in front.

    Args:
        keys: 1..4 different keys of 32 bytes.

    Raises:
        SealError: the number or length of the keys is wrong, or one occurs twice.
    """

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not 1 <= len(keys) <= KEYS_MAX:
            raise SealError(f"{len(keys)} keys in the ring, 1..{KEYS_MAX} are possible")
        if any(len(key) != KEY_BYTES for key in keys):
            raise SealError(f"every key has {KEY_BYTES} bytes")
        if len(set(keys)) != len(keys):
            raise SealError("a key is in the ring twice")
        self._keys = {_hkdf(key, b"", b"leitwolf key id")[:4]: bytes(key) for key in keys}
        if len(self._keys) != len(keys):
            raise SealError("two keys of the ring have the same id: make another one")
        self.sealing_id = next(iter(self._keys))

    @classmethod
    def parse(cls, data: bytes) -> KeyRing:
        """Return the ring in a key file: its keys one behind the other, the sealing one first.

        Raises:
            SealError: the data is no whole number of keys, or they are wrong.
        """
        if len(data) % KEY_BYTES:
            raise SealError(f"{len(data)} bytes are no whole number of keys of {KEY_BYTES}")
        return cls([data[at : at + KEY_BYTES] for at in range(0, len(data), KEY_BYTES)])

    def __contains__(self, key_id: object) -> bool:
        return key_id in self._keys

    def cipher(self, key_id: bytes, sender: int, salt: bytes) -> AESGCM:
        """Return the cipher of one session; ``key_id`` must be in the ring."""
        return _session_cipher(self._keys[key_id], sender, salt)


class Sealer:
    """Seals the messages of this guard process.

    Args:
        key_ring: the keys in force.
        node: own node id, 1..65535.

    Raises:
        SealError: the node id is out of range.
    """

    def __init__(self, key_ring: KeyRing, node: int) -> None:
        if not 1 <= node <= 0xFFFF:
            raise SealError(f"node id {node} is outside 1..65535")
        self._node = node
        self._salt = os.urandom(_SALT_BYTES)
        self._counters = [0] * 256
        self.set_keys(key_ring)

    def set_keys(self, key_ring: KeyRing) -> None:
        """Go over to another ring (rekey)."""
        self._key_id = key_ring.sealing_id
        self._cipher = key_ring.cipher(self._key_id, self._node, self._salt)

    def seal(self, link: int, message: bytes) -> bytes:
        """Return the datagram of a message.

        Args:
            link: number of the link on which it will be sent, 0..255.
            message: 1..1158 bytes.

        Raises:
            SealError: link or message is outside its range.
        """
        if not 0 <= link <= 0xFF:
            raise SealError(f"link {link} is outside 0..255")
        if not 1 <= len(message) <= MESSAGE_BYTES_MAX:
            raise SealError(f"{len(message)} bytes of message, 1..{MESSAGE_BYTES_MAX} are possible")
        counter = self._counters[link] + 1
        self._counters[link] = counter
        header = _HEADER.pack(_MAGIC, _VERSION, self._key_id, self._node, link, self._salt, counter)
        return header + self._cipher.encrypt(_nonce(link, counter), message, header)


@dataclass(slots=True)
class Drops:
    """How many datagrams were dropped, by reason."""

    malformed: int = 0
    """Too short, other magic or version."""
    oversized: int = 0
    foreign_key: int = 0
    """Sealed with a key that is not in the ring: another cluster, or before or after a rekey."""
    unknown_sender: int = 0
    """The sender is not among the nodes that this one listens to."""
    replayed: int = 0
    """Taken before, older than the window, or of a session that was displaced."""
    forged: int = 0
    """The tag is wrong."""

    @property
    def total(self) -> int:
        """All dropped datagrams."""
        return (
            self.malformed
            + self.oversized
            + self.foreign_key
            + self.unknown_sender
            + self.replayed
            + self.forged
        )


class _Session:
    """One (key, sender, salt): cipher, and per link the newest counter and what came before it."""

    __slots__ = ("cipher", "used", "windows")

    def __init__(self, cipher: AESGCM) -> None:
        self.cipher = cipher
        self.used = 0
        self.windows: dict[int, tuple[int, int]] = {}

    def seen(self, link: int, counter: int) -> bool:
        """Tell whether a counter was taken or is too old to know."""
        newest, taken = self.windows.get(link, (0, 0))
        behind = newest - counter
        return behind >= 0 and (behind >= _WINDOW or bool(taken >> behind & 1))

    def take(self, link: int, counter: int) -> None:
        """Note an authenticated counter."""
        newest, taken = self.windows.get(link, (0, 0))
        ahead = counter - newest
        if ahead > 0:
            moved = taken << ahead & _WINDOW_MASK if ahead < _WINDOW else 0
            self.windows[link] = (counter, moved | 1)
        else:
            self.windows[link] = (newest, taken | 1 << -ahead)


class _Sender:
    """What is known of one node: its open sessions and the salts that were displaced."""

    __slots__ = ("retired", "sessions")

    def __init__(self) -> None:
        self.sessions: dict[tuple[bytes, bytes], _Session] = {}
        self.retired: dict[tuple[bytes, bytes], None] = {}

    def add(self, name: tuple[bytes, bytes], session: _Session) -> None:
        """Open a session, displacing the one used least recently if there are too many."""
        if len(self.sessions) >= _SESSIONS_OPEN_MAX:
            oldest = min(self.sessions, key=lambda known: self.sessions[known].used)
            del self.sessions[oldest]
            self.retired[oldest] = None
            if len(self.retired) > _SALTS_RETIRED_MAX:
                del self.retired[next(iter(self.retired))]
        self.sessions[name] = session


class Opener:
    """Opens the datagrams of other guards.

    Args:
        key_ring: the keys in force.
        senders: ids of the nodes to listen to, without the own one; nobody else is heard.
    """

    def __init__(self, key_ring: KeyRing, senders: Iterable[int] = ()) -> None:
        self._ring = key_ring
        self._senders: dict[int, _Sender] = {}
        self._uses = 0
        self.drops = Drops()
        self.set_senders(senders)

    def set_senders(self, senders: Iterable[int]) -> None:
        """Listen to exactly these nodes from now on; what is known of those that stay is kept."""
        known = self._senders
        self._senders = {node: known.get(node) or _Sender() for node in senders}

    def set_keys(self, key_ring: KeyRing) -> None:
        """Go over to another ring; sessions under keys that are not in it end."""
        self._ring = key_ring
        for sender in self._senders.values():
            sender.sessions = {
                name: session for name, session in sender.sessions.items() if name[0] in key_ring
            }
            sender.retired = {name: None for name in sender.retired if name[0] in key_ring}

    def open(self, datagram: bytes) -> tuple[int, int, bytes] | None:
        """Return sender, link and message of a datagram, or None: dropped and counted.

        The link is what the sender says; the caller compares it with that of the socket.
        """
        if len(datagram) > DATAGRAM_BYTES_MAX:
            self.drops.oversized += 1
            return None
        if len(datagram) <= _HEADER.size + _TAG_BYTES:
            self.drops.malformed += 1
            return None
        magic, version, key_id, node, link, salt, counter = _HEADER.unpack_from(datagram)
        if magic != _MAGIC or version != _VERSION or counter == 0:
            self.drops.malformed += 1
            return None
        if key_id not in self._ring:
            self.drops.foreign_key += 1
            return None
        sender = self._senders.get(node)
        if sender is None:
            self.drops.unknown_sender += 1
            return None
        name = (key_id, salt)
        session = sender.sessions.get(name)
        if session is None:
            if name in sender.retired:
                self.drops.replayed += 1
                return None
            session = _Session(self._ring.cipher(key_id, node, salt))
        elif session.seen(link, counter):
            self.drops.replayed += 1
            return None
        message = self._decrypt(session.cipher, datagram, _nonce(link, counter))
        if message is None:
            return None
        self._uses += 1
        session.used = self._uses
        session.take(link, counter)
        if name not in sender.sessions:
            sender.add(name, session)
        return node, link, message

    def _decrypt(self, cipher: AESGCM, datagram: bytes, nonce: bytes) -> bytes | None:
        size = _HEADER.size
        try:
            return cipher.decrypt(nonce, datagram[size:], datagram[:size])
        except InvalidTag:
            self.drops.forged += 1
            return None
