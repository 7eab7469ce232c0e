"""The fold over the log: ``fold(state, entry) -> state``, its encoding and its hash. Pure."""

from __future__ import annotations

from leitwolf.state.backup import (
    BACKUP_BYTES_MAX,
    Backup,
    decode_backup,
    encode_backup,
    take_backup,
)
from leitwolf.state.codec import decode, decode_change, digest, encode, encode_change
from leitwolf.state.fold import fold, fold_all, fold_change, fold_loaded
from leitwolf.state.groups import SECOND, recent
from leitwolf.state.transitions import (
    GROUP_TRANSITIONS,
    NEEDS_OWNER_DOWN,
    NODE_TRANSITIONS,
    RESOURCE_TRANSITIONS,
    resource_path,
)

__all__ = [
    "BACKUP_BYTES_MAX",
    "GROUP_TRANSITIONS",
    "NEEDS_OWNER_DOWN",
    "NODE_TRANSITIONS",
    "RESOURCE_TRANSITIONS",
    "SECOND",
    "Backup",
    "decode",
    "decode_backup",
    "decode_change",
    "digest",
    "encode",
    "encode_backup",
    "encode_change",
    "fold",
    "fold_all",
    "fold_change",
    "fold_loaded",
    "recent",
    "resource_path",
    "take_backup",
]
