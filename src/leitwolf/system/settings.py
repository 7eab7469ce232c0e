"""Where the processes of a node keep their files, and which means of the machine they may use.

One frozen block, made once by whoever starts the keeper and handed to its children through the
environment. Standard library only: the guard imports this module.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Settings", "SettingsError"]

_SOCKET_PATH_BYTES_MAX = 107
"""sun_path of a Unix socket has 108 bytes, the last one 0."""
_LONGEST_SOCKET_NAME = "keeper.sock"
_ENUMERATIONS: dict[str, tuple[str, ...]] = {
    "containment": ("auto", "cgroup", "pidns"),
    "realtime": ("auto", "no"),
    "fence": ("reboot", "namespace"),
    "volatile": ("yes", "no"),
}
_PATHS = ("runtime", "state", "config")
"""These are options of ``leitwolf run``, too."""


class SettingsError(ValueError):
    """A setting is wrong; the text names it, its value, what is possible and the fix.

    Attributes:
        code: stable, kebab-case.
        field: name of the setting.
    """

    code = "invalid-settings"

    def __init__(self, field: str, text: str) -> None:
        variable = f"LEITWOLF_{field.upper()}"
        name = f"--{field} ({variable})" if field in _PATHS else variable
        super().__init__(f"{name}: {text}")
        self.field = field


JOIN_ONLY_NAME = "join-only"
"""A file of this name in the state directory: the node is to join only, until it has joined."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one node; every field is the environment variable ``LEITWOLF_NAME``.

    Only ``runtime``, ``state`` and ``config`` are options ``--name`` of ``leitwolf run`` as well.

    Raises:
        SettingsError: a value is outside its range.
    """

    runtime: Path = Path("/run/leitwolf")
    """Sockets, pages and locks: a tmpfs, for what it holds must not survive a boot."""
    state: Path = Path("/var/lib/leitwolf")
    """Quorum log, snapshots and recorder."""
    config: Path = Path("/etc/leitwolf")
    """Certificates and keys."""
    cgroup: Path | None = None
    """Delegated cgroup (version 2) for the resources; None: below the keeper's own."""
    containment: str = "auto"
    """auto, cgroup, or pidns (a PID namespace per resource)."""
    realtime: str = "auto"
    """auto: real-time scheduling and locked memory where permitted; no: not even tried."""
    watchdog: str = "/dev/watchdog"
    """Watchdog device, or none."""
    fence: str = "reboot"
    """What self-fencing ends: reboot (the machine) or namespace (only this PID namespace)."""
    volatile: str = "yes"
    """no: the runtime directory need not be a tmpfs (a node that is only tried out)."""

    def __post_init__(self) -> None:
        for name, possible in _ENUMERATIONS.items():
            value = getattr(self, name)
            if value not in possible:
                raise SettingsError(name, f"{value!r} is none of {', '.join(possible)}")
        for name in _PATHS:
            path: Path = getattr(self, name)
            if not path.is_absolute():
                raise SettingsError(name, f"'{path}' is no absolute path")
        if self.cgroup is not None and not self.cgroup.is_absolute():
            raise SettingsError("cgroup", f"'{self.cgroup}' is no absolute path")
        if self.watchdog != "none" and not self.watchdog.startswith("/"):
            raise SettingsError(
                "watchdog", f"{self.watchdog!r} is neither an absolute path nor none"
            )
        longest = len(os.fsencode(self.runtime / _LONGEST_SOCKET_NAME))
        if longest > _SOCKET_PATH_BYTES_MAX:
            raise SettingsError(
                "runtime",
                f"'{self.runtime}' is too long for the sockets in it by "
                f"{longest - _SOCKET_PATH_BYTES_MAX} bytes: choose a shorter path",
            )

    @property
    def quorum_log(self) -> Path:
        """Where the quorum log of this node is."""
        return self.state / "quorum"

    @classmethod
    def load(cls, environment: Mapping[str, str], **options: str | None) -> Settings:
        """Return the settings of command-line options over the environment over the defaults.

        Args:
            environment: usually ``os.environ``; an empty variable counts as not set.
            options: by name of the setting; None: not given.

        Raises:
            SettingsError: a value is outside its range.
        """
        unknown = set(options) - set(cls.__dataclass_fields__)
        if unknown:
            raise SettingsError(min(unknown), "there is no such setting")
        values: dict[str, str | Path] = {}
        for name in cls.__dataclass_fields__:
            given = options.get(name) or environment.get(f"LEITWOLF_{name.upper()}")
            if given:
                values[name] = Path(given) if name in (*_PATHS, "cgroup") else given
        return cls(**values)  # type: ignore[arg-type]  # paths and strings by name, see above

    def environment(self) -> dict[str, str]:
        """Return the variables from which :meth:`load` makes these settings again."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {
            f"LEITWOLF_{name.upper()}": str(value)
            for name, value in values.items()
            if value is not None
        }
