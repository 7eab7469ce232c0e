"""A shared disk in memory that loses power or fails in any write, torn at any sector, or in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from leitwolf.model.errors import WitnessError
from leitwolf.model.ids import NodeId
from leitwolf.model.log import Entry, Snapshot
from leitwolf.model.quorum import Acceptor, AcceptorId, QuorumConfig
from leitwolf.wire.ballot import Ballot, Key
from leitwolf.witness.disk import BlockingDisk
from leitwolf.witness.format import write_structure
from leitwolf.witness.layout import VERSION, Geometry, Header
from leitwolf.witness.reservations import Admit

SECTOR_BYTES = 512
REGION_BYTES = 256 << 10
NODES = 3
CLUSTER = "cluster-1"
HEADER = Header(
    version=VERSION, cluster=CLUSTER, disk="disk-1", nodes_max=NODES, region_bytes=REGION_BYTES
)
GEOMETRY = Geometry(NODES, REGION_BYTES)
CONFIG = QuorumConfig(acceptors=(Acceptor(id=AcceptorId(NodeId(1), "s")),))


class PowerCut(BaseException):
    """The writer died in the middle of a write."""


class MemoryDevice:
    """A device; ``cut_at`` counts writes down to the one that a power cut tears."""

    def __init__(self) -> None:
        self.content = bytearray(GEOMETRY.needed_bytes)
        self.writes = 0
        self.cut_at = 0
        self.fail_at = 0
        self.fenced: set[int] = set()
        self.keep: Callable[[int], bool | None] = lambda _: False
        """Which sectors of the torn write reach the disk; None: it is neither old nor new."""

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def unfenced(self) -> str:
        return ""

    def claim(self, cluster: str, node: int, offset: int, admit: Admit) -> None:
        admit()

    def fence(self, nodes: tuple[int, ...]) -> None:
        self.fenced.update(nodes)

    def close(self) -> None:
        pass

    def read(self, offset: int, length: int) -> bytes:
        assert offset % 4096 == 0
        assert length % 4096 == 0
        return bytes(self.content[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        assert offset % 4096 == 0
        assert len(data) % 4096 == 0
        self.writes += 1
        torn = self.writes in {self.cut_at, self.fail_at}
        for number, start in enumerate(range(0, len(data), SECTOR_BYTES)):
            kept = not torn or self.keep(number)
            if kept is not False:
                part = data[start : start + SECTOR_BYTES] if kept else b"\xa5" * SECTOR_BYTES
                self.content[offset + start : offset + start + SECTOR_BYTES] = part
        if self.writes == self.cut_at:
            raise PowerCut
        if self.writes == self.fail_at:
            raise WitnessError("the cable is out", code="witness-unreachable")


@cache
def _image() -> bytes:
    device = MemoryDevice()
    write_structure(device, HEADER, None)
    return bytes(device.content)


def formatted() -> MemoryDevice:
    device = MemoryDevice()
    device.content[:] = _image()
    return device


def opened(device: MemoryDevice, node: int = 1) -> BlockingDisk:
    return BlockingDisk(device, cluster=CLUSTER, node=node)


def entry(index: int, ballot: Ballot, size: int = 300) -> Entry:
    return Entry(index=index, ballot=ballot, payload=bytes([index % 251]) * size)


def snapshot(index: int, ballot: Ballot, size: int = 6000) -> Snapshot:
    return Snapshot(last=Key(ballot, index), config=CONFIG, state=b"s" * size, state_hash="h")
