"""What the guard finds on the machine: gate, cells, addresses, keys. Made once per process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from leitwolf.core.lease import ArmGate
from leitwolf.guard.arming import Arming
from leitwolf.guard.seal import KeyRing
from leitwolf.guard.stopper import CellsPort, Stopper
from leitwolf.system import containment
from leitwolf.system.gate import Gate
from leitwolf.system.rtnetlink import NodeAddress, marked_addresses, remove_address
from leitwolf.system.settings import Settings
from leitwolf.wire.ballot import Now
from leitwolf.wire.page import LeasePage
from leitwolf.wire.permit import believed

__all__ = ["Equipment", "read_keys"]

_KEY_FILE = Path("pki") / "heartbeat.key"


def read_keys(config: Path) -> KeyRing:
    """Return the keys of heartbeats.

    Raises:
        OSError: the file is not there.
        ValueError: it holds no keys.
    """
    return KeyRing.parse((config / _KEY_FILE).read_bytes())


class Equipment:
    """Gate and containment of this node.

    Args:
        settings: of the node.
        record: called with code and detail of what is not to be had.
    """

    def __init__(self, settings: Settings, record: Callable[[str, str], None]) -> None:
        self._settings = settings
        self._record = record
        self._reading: Gate | None = None

    def arming(self, page: LeasePage | None, now: Now) -> Arming | None:
        """Build the gate closed, unless an open lease of the predecessor goes on behind it.

        Returns:
            None: the kernel has no gate for us (no CAP_NET_ADMIN, no nftables): addresses are
            guarded by this process alone, which is recorded.
        """
        current = None
        known = None if page is None else believed(page, now)
        if known is not None and known.gate and known.lease and now.raw < known.lease_end:
            current = ArmGate(known.lease, known.lease_end, renewal=True)
        try:
            gate = Gate()
            self._reading = Gate()
            if current is None or not gate.intact():
                gate.install(self.address_names())
        except OSError as error:
            self._record("no-gate", str(error))
            return None
        return Arming(gate, self.address_names, current)

    def stopper(self) -> Stopper:
        """Return what stops everything here."""
        cells: CellsPort = containment.find(self._settings)
        return Stopper(cells, self.addresses, remove_address)

    def addresses(self) -> list[NodeAddress]:
        """Return the virtual addresses that this node has: marked, or managed by the gate.

        Raises:
            OSError: the kernel refused.
        """
        return marked_addresses(also=self._managed())

    def address_names(self) -> list[str]:
        """Return these addresses without interface and prefix.

        Raises:
            OSError: the kernel refused.
        """
        return sorted({one.address for one in marked_addresses()})

    def _managed(self) -> set[str]:
        """Return what the gate manages; kernels before 5.18 keep no mark on addresses."""
        if self._reading is None:
            return set()
        try:
            return self._reading.managed()
        except FileNotFoundError:  # somebody deleted the gate; it is being rebuilt
            return set()
