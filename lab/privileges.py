"""Who may build a world: root, or an ordinary user inside one user namespace."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

__all__ = ["LabUnavailable", "ensure_privileges", "is_user_namespace"]

_INSIDE = "LEITWOLF_LAB_INSIDE"
_UNSHARE = [
    "unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--uts", "--ipc",
    "--fork", "--kill-child=SIGTERM", "--mount-proc",
]  # fmt: skip


class LabUnavailable(Exception):
    """This machine does not let us build namespaces; says why, and what to do."""


def is_user_namespace() -> bool:
    """Return whether this process is root only in a user namespace of its own."""
    return os.environ.get(_INSIDE) == "1"


def ensure_privileges() -> None:
    """Go on as root; an ordinary user's program starts itself again in a user namespace.

    Call it first in a program: it may not return, but begin again.

    Raises:
        LabUnavailable: user namespaces are shut; names the command for root.
    """
    if os.geteuid() == 0:
        return
    probe = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        command = shlex.join(["sudo", *sys.orig_argv])
        reason = probe.stderr.strip() or f"unshare failed with {probe.returncode}"
        raise LabUnavailable(
            f"An ordinary user may not make namespaces on this machine: {reason}.\n"
            "Often kernel.apparmor_restrict_unprivileged_userns, "
            "kernel.unprivileged_userns_clone or user.max_user_namespaces forbids it.\n"
            f"Run it as root instead: {command}"
        )
    os.environ[_INSIDE] = "1"
    os.execvp(_UNSHARE[0], [*_UNSHARE, *sys.orig_argv])  # noqa: S606
