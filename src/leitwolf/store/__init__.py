"""The quorum log on disk, its snapshots and history, and the local recorder."""

from __future__ import annotations

from leitwolf.store.dump import dump
from leitwolf.store.files import OsFileSystem
from leitwolf.store.identity import StoreIdentity, quarantine, quarantined, read_identity
from leitwolf.store.log import QuorumLog
from leitwolf.store.recorder import LocalLine, LocalRecorder
from leitwolf.store.recovery import Damage, DamagedLog
from leitwolf.store.sizes import StoreSizes

__all__ = [
    "Damage",
    "DamagedLog",
    "LocalLine",
    "LocalRecorder",
    "OsFileSystem",
    "QuorumLog",
    "StoreIdentity",
    "StoreSizes",
    "dump",
    "quarantine",
    "quarantined",
    "read_identity",
]
