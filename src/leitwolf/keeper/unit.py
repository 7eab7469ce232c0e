"""The systemd unit of a node, as the installer writes it."""

from __future__ import annotations

from leitwolf.system.settings import Settings

__all__ = ["unit_text"]

_TEMPLATE = """\
[Unit]
Description=Leitwolf failover cluster, this node
Wants=network-online.target
After=network-online.target nftables.service firewalld.service
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command} run
ExecReload=/bin/kill -HUP $MAINPID
{environment}
# Only the keeper is stopped, restarted and watched; it is told to stop the others in order, and
# what runs survives its restart.
KillMode=process
Restart=always
RestartSec=100ms
WatchdogSec=10s
# A keeper that is stopped takes no other signal, and has nothing to tidy up.
WatchdogSignal=SIGKILL
TimeoutStartSec=90s
TimeoutStopSec=120s
# Resources live in cgroups of their own below this one.
Delegate=yes
RuntimeDirectory=leitwolf
RuntimeDirectoryPreserve=yes
StateDirectory=leitwolf
LimitMEMLOCK=infinity
LimitRTPRIO=99
LimitNOFILE=65536
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""


def unit_text(command: str, settings: Settings) -> str:
    """Return the unit file.

    Args:
        command: absolute path of the ``leitwolf`` program.
        settings: those that differ from the defaults are written into it.
    """
    usual = Settings().environment()
    lines = [
        f"Environment={_quoted(name, value)}"
        for name, value in settings.environment().items()
        if usual.get(name) != value
    ]
    return _TEMPLATE.format(command=command.replace("%", "%%"), environment="\n".join(lines))


def _quoted(name: str, value: str) -> str:
    """Return an assignment as systemd reads it: quoted, with its own escapes."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{name}={escaped}"'
