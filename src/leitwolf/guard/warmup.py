"""One pass over the guard's own paths before it is ready.

Memory is locked as it is touched and code is specialised as it runs, so the first real heartbeat
must not be the first one.
"""

from __future__ import annotations

from leitwolf.core.lease import Commanded, Heard, LeaseMachine, Tick
from leitwolf.guard.seal import KEY_BYTES, KeyRing, Opener, Sealer
from leitwolf.wire.ballot import Ballot, Now
from leitwolf.wire.guard import (
    GUARD,
    Configure,
    DaemonHello,
    OpenLease,
    PeerNode,
    TakeOffice,
    Votes,
)
from leitwolf.wire.heartbeat import PEER, Ack, Heartbeat, Probe, ProbeReply
from leitwolf.wire.page import LeasePage, pack_page, unpack_page

__all__ = ["warm_up"]

_MS = 1_000_000
_ROUNDS = 3


def warm_up() -> None:
    """Run sealing, opening, packing and a machine of its own for a few steps; no I/O."""
    configure = Configure(
        1, 1, ("192.0.2.1",), 50 * _MS, 260 * _MS, 420 * _MS, 60 * _MS, 260 * _MS, 420 * _MS,
        (PeerNode(2, ("192.0.2.2",)),), (Votes((1, 2), (1, 1)),),
    )  # fmt: skip
    ballot, boot_id = Ballot(1, 1, 1), bytes(16)
    heartbeat = Heartbeat(Ballot(1, 2, 2), 1, 2, 260 * _MS, False, 1, 1, 420 * _MS, 1, 1)
    ack = Ack(ballot, 1, 1, 260 * _MS, 1, 2, 0, 0, False, ())
    ring = KeyRing([bytes(KEY_BYTES)])
    sealer, opener = Sealer(ring, 2), Opener(ring, [2])
    for _ in range(_ROUNDS):
        now = 10_000_000_000
        page = LeasePage(boot_id=boot_id, floor=ballot)
        machine = LeaseMachine(boot_id=boot_id, incarnation=1, page=page, now=Now(now, now))
        machine.start(Now(now, now))
        for event in (
            Commanded(GUARD.decode(GUARD.encode(configure))),
            Commanded(DaemonHello(ballot)),
            Commanded(TakeOffice(ballot, ())),
            Commanded(OpenLease(ballot, 1, 1, 1)),
            Heard(2, 0, ack),
            Heard(2, 0, Probe(1, 2)),
            Heard(2, 0, ProbeReply(1, 1)),
            Tick(now),
            Heard(2, 0, heartbeat),
        ):
            now += 10 * _MS
            machine.step(Now(now, now), event)
            machine.deadline()
        unpack_page(pack_page(machine.page), boot_id)
        for message in (heartbeat, ack):
            opened = opener.open(sealer.seal(0, PEER.encode(message)))
            if opened is not None:
                PEER.decode(opened[2])
