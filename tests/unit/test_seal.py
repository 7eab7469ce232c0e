"""The envelope of heartbeats: what it takes, what it drops, and how it counts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from leitwolf.guard import seal
from leitwolf.guard.seal import KeyRing, Opener, Sealer, SealError

OLD = bytes(range(32))
NEW = bytes(range(32, 64))
RING = KeyRing([OLD])


def pair(node: int = 1) -> tuple[Sealer, Opener]:
    return Sealer(RING, node), Opener(RING, [node])


def test_opens_what_was_sealed() -> None:
    """A datagram opens to its sender, link and message."""
    sealer, opener = pair(node=65535)
    assert opener.open(sealer.seal(255, b"message")) == (65535, 255, b"message")
    assert opener.drops.total == 0


def test_message_is_not_readable() -> None:
    """The message is encrypted, not merely signed."""
    sealer, _ = pair()
    assert b"plain words" not in sealer.seal(0, b"plain words")


def test_takes_a_datagram_once() -> None:
    """The same datagram a second time is dropped as replayed."""
    sealer, opener = pair()
    datagram = sealer.seal(0, b"x")
    assert opener.open(datagram) is not None
    assert opener.open(datagram) is None
    assert opener.drops.replayed == 1


def test_takes_disorder_inside_the_window() -> None:
    """64 datagrams in any order are all taken, each once; what is older is refused."""
    sealer, opener = pair()
    datagrams = [sealer.seal(0, b"x") for _ in range(65)]
    taken = [opener.open(datagram) for datagram in reversed(datagrams)]
    assert [item is not None for item in taken] == [True] * 64 + [False]
    assert all(opener.open(datagram) is None for datagram in datagrams)
    assert opener.drops.replayed == 1 + 65


def test_jump_of_the_counter_forgets_nothing_taken() -> None:
    """After a gap wider than the window, everything before it is refused."""
    sealer, opener = pair()
    early = [sealer.seal(0, b"x") for _ in range(3)]
    assert opener.open(early[1]) is not None
    late = [sealer.seal(0, b"x") for _ in range(100)][-1]
    assert opener.open(late) is not None
    assert [opener.open(datagram) for datagram in early] == [None] * 3


def test_links_do_not_age_each_other() -> None:
    """A slow link is not cut off by a fast one: each has its own window."""
    sealer, opener = pair()
    slow = sealer.seal(1, b"slow")
    for _ in range(200):
        assert opener.open(sealer.seal(0, b"fast")) is not None
    assert opener.open(slow) == (1, 1, b"slow")


def test_no_nonce_twice() -> None:
    """Counters of a link never repeat, and no two links share a nonce."""
    sealer, _ = pair()
    headers = [sealer.seal(link, b"x")[10:27] for link in (0, 1, 0, 1, 0)]
    assert len(set(headers)) == 5


def test_every_guard_process_has_its_own_session() -> None:
    """Two sealers of one node use different salts, and both are taken."""
    first, second = Sealer(RING, 1), Sealer(RING, 1)
    opener = Opener(RING, [1])
    one, two = first.seal(0, b"x"), second.seal(0, b"x")
    assert one != two
    assert opener.open(one) is not None
    assert opener.open(two) is not None


def test_displaced_session_never_returns() -> None:
    """Recordings of a session that newer ones displaced are refused, also unseen datagrams."""
    first = Sealer(RING, 1)
    opener = Opener(RING, [1])
    unseen = first.seal(0, b"old")
    assert opener.open(first.seal(0, b"old")) is not None
    for _ in range(8):
        assert opener.open(Sealer(RING, 1).seal(0, b"new")) is not None
    assert opener.open(unseen) is None
    assert opener.drops.replayed == 1


def test_replayed_sessions_do_not_displace_the_living_one() -> None:
    """The session in use stays open however many recorded sessions are played in between."""
    living = Sealer(RING, 1)
    opener = Opener(RING, [1])
    for _ in range(50):
        assert opener.open(living.seal(0, b"living")) is not None
        assert opener.open(Sealer(RING, 1).seal(0, b"recorded")) is not None
    assert opener.drops.total == 0


def test_memory_of_salts_is_bounded() -> None:
    """However many sessions a sender had, a bounded number of salts is remembered."""
    opener = Opener(RING, [1])
    for _ in range(seal._SALTS_RETIRED_MAX + 20):
        opener.open(Sealer(RING, 1).seal(0, b"x"))
    sender = opener._senders[1]
    assert len(sender.sessions) == seal._SESSIONS_OPEN_MAX
    assert len(sender.retired) == seal._SALTS_RETIRED_MAX


def test_unknown_sender_is_not_heard() -> None:
    """Nodes that are not configured are dropped; by default nobody is heard."""
    datagram = Sealer(RING, 7).seal(0, b"x")
    for opener in (Opener(RING), Opener(RING, [1, 2])):
        assert opener.open(datagram) is None
        assert opener.drops.unknown_sender == 1
    opener.set_senders([7])
    assert opener.open(datagram) is not None


def test_change_of_senders_keeps_windows() -> None:
    """A node that stays configured cannot be replayed after a change of the others."""
    sealer, opener = pair()
    datagram = sealer.seal(0, b"x")
    assert opener.open(datagram) is not None
    opener.set_senders([1, 2])
    assert opener.open(datagram) is None


def test_foreign_cluster_is_counted() -> None:
    """A datagram under a key that is not in the ring is counted as foreign."""
    _, opener = pair()
    assert opener.open(Sealer(KeyRing([NEW]), 1).seal(0, b"x")) is None
    assert opener.drops.foreign_key == 1


def test_claimed_sender_must_hold_its_session_key() -> None:
    """A datagram whose sender was rewritten is dropped as forged."""
    datagram = bytearray(Sealer(RING, 1).seal(0, b"x"))
    datagram[7:9] = (2).to_bytes(2, "big")
    opener = Opener(RING, [1, 2])
    assert opener.open(bytes(datagram)) is None
    assert opener.drops.forged == 1


def test_forged_datagram_takes_no_counter() -> None:
    """A forgery with a high counter does not push the honest sender out of its window."""
    sealer, opener = pair()
    honest = sealer.seal(0, b"x")
    forged = bytearray(honest)
    forged[18:26] = b"\xff" * 8
    assert opener.open(sealer.seal(0, b"y")) is not None
    assert opener.open(bytes(forged)) is None
    assert opener.open(honest) is not None


def test_rekey_loses_nothing() -> None:
    """New key behind the old, then in front, then alone: every step opens what is under way."""
    sealer, opener = pair()
    assert opener.open(sealer.seal(0, b"1")) is not None
    opener.set_keys(KeyRing([OLD, NEW]))
    assert opener.open(sealer.seal(0, b"2")) is not None
    sealer.set_keys(KeyRing([NEW, OLD]))
    assert opener.open(sealer.seal(0, b"3")) is not None
    opener.set_keys(KeyRing([NEW, OLD]))
    assert opener.open(sealer.seal(0, b"4")) is not None
    late = Sealer(RING, 1).seal(0, b"5")
    opener.set_keys(KeyRing([NEW]))
    assert opener.open(late) is None
    assert opener.drops.foreign_key == 1
    assert opener.open(sealer.seal(0, b"6")) is not None


def test_sizes() -> None:
    """The largest message makes the largest datagram; above it is refused on both sides."""
    sealer, opener = pair()
    largest = sealer.seal(0, bytes(seal.MESSAGE_BYTES_MAX))
    assert len(largest) == seal.DATAGRAM_BYTES_MAX
    assert opener.open(largest) is not None
    for message in (b"", bytes(seal.MESSAGE_BYTES_MAX + 1)):
        with pytest.raises(SealError):
            sealer.seal(0, message)
    assert opener.open(largest + b"x") is None
    assert opener.drops.oversized == 1


def test_wrong_arguments_are_refused() -> None:
    """Nodes, links and keys outside their range raise SealError."""
    for node in (0, 65536):
        with pytest.raises(SealError):
            Sealer(RING, node)
    for link in (-1, 256):
        with pytest.raises(SealError):
            Sealer(RING, 1).seal(link, b"x")
    for keys in ([], [OLD[1:]], [OLD, OLD], [bytes([n]) * 32 for n in range(5)]):
        with pytest.raises(SealError):
            KeyRing(keys)
    for data in (b"", OLD[1:], OLD + b"x"):
        with pytest.raises(SealError):
            KeyRing.parse(data)


def test_key_file_order() -> None:
    """The first key of a key file seals."""
    ring = KeyRing.parse(NEW + OLD)
    assert ring.sealing_id == KeyRing([NEW]).sealing_id
    assert KeyRing([OLD]).sealing_id in ring


def test_imports_are_few() -> None:
    """The module pulls neither x509 nor asyncio, ssl or msgspec into the guard."""
    code = (
        "import sys; import leitwolf.guard.seal; "
        "print([n for n in ('asyncio', 'ssl', 'msgspec', 'cryptography.x509', 'logging')"
        " if n in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "src"},
    )
    assert ran.stdout.strip() == "[]"
