"""Heartbeat keys: from the log to the file that the guard reads, and new ones when needed."""

from __future__ import annotations

import os
from pathlib import Path

from leitwolf.model.commands import Rekey
from leitwolf.model.errors import StorageError
from leitwolf.model.limits import HEARTBEAT_KEY_BYTES
from leitwolf.model.state import State
from leitwolf.peers.identity import load_identity, save_heartbeat_keys
from leitwolf.system.diary import log

__all__ = ["KeyFile", "rekey_command"]


class KeyFile:
    """The key file of this node, kept as the log says."""

    def __init__(self, config: Path) -> None:
        """Read what is there.

        Raises:
            LeitwolfError: the identity is damaged.
        """
        self._config = config
        self._keys = load_identity(config).heartbeat_keys

    def follow(self, state: State) -> bool:
        """Write the keys of the log; return whether they changed, so that the guard reads them.

        Raises:
            StorageError: the file cannot be written (``keys-not-written``). The daemon ends with
                it, and the next one tries again: the keys are in the log.
        """
        wanted = b"".join(state.keys)
        if not wanted or wanted == self._keys:
            return False
        try:
            save_heartbeat_keys(self._config, wanted)
        except OSError as error:
            raise StorageError(
                f"the heartbeat keys of the log cannot be written below {self._config}: {error}",
                code="keys-not-written",
                hint="make room there, or make it writable; this node goes on by itself",
            ) from error
        self._keys = wanted
        log.info("heartbeat keys changed", stage=state.keys_stage)
        return True

    @property
    def sealing(self) -> bytes:
        """The key that seals now."""
        return self._keys[:HEARTBEAT_KEY_BYTES]


def rekey_command(keys: KeyFile) -> Rekey:
    """Return the command that replaces the key in use by a random one."""
    return Rekey(former=keys.sealing, key=os.urandom(HEARTBEAT_KEY_BYTES))
