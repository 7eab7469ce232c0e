"""Parameters of a managed process, parsed."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from leitwolf.model.errors import ResourceError
from leitwolf.model.types import problems, value_of
from leitwolf.resources._checks import Endpoint, WebAddress, endpoint, web_address

__all__ = ["Account", "ProcessParameters", "account", "signal_number"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def signal_number(text: str) -> int:
    """Return the number of a valid signal: ``TERM``, ``SIGTERM`` or ``15``."""
    name = text.strip().upper()
    return int(name) if name.isdigit() else signal.Signals["SIG" + name.removeprefix("SIG")]


@dataclass(frozen=True, slots=True)
class ProcessParameters:
    """What to run and how; units and ranges: :data:`leitwolf.model.types.TYPES`.

    A command line is split into words as by a shell, but no shell runs it. Who needs pipes,
    variables or ``&&`` writes ``/bin/sh -c '...'``: the choice stays visible, and the main process,
    whose death is the resource's death, is the one that is named.
    """

    command: list[str]
    user: str
    group: str
    environment: dict[str, str]
    working_directory: str
    stop_signal: int
    stop_timeout_ms: int
    ready_timeout_ms: int
    """The shorter of ready_timeout_ms and start_timeout_ms."""
    output_bytes_max: int
    check_command: list[str]
    check_tcp: Endpoint | None
    check_http: WebAddress | None
    check_interval_ms: int
    check_timeout_ms: int
    check_failures: int

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> ProcessParameters:
        """Return the parsed parameters.

        Raises:
            ResourceError: the first problem that the model names; ``field`` is the parameter.
        """
        for problem in problems("process", parameters):
            raise ResourceError(
                problem.text, code=problem.code, hint=problem.hint, field=problem.field
            )

        def text(name: str) -> str:
            return value_of("process", parameters, name)

        pairs = (word.partition("=") for word in shlex.split(text("environment")))
        tcp, http = text("check_tcp"), text("check_http")
        return cls(
            command=shlex.split(text("command")),
            user=text("user"),
            group=text("group"),
            environment={name: value for name, _, value in pairs},
            working_directory=text("working_directory"),
            stop_signal=signal_number(text("stop_signal")),
            stop_timeout_ms=int(text("stop_timeout_ms")),
            ready_timeout_ms=min(int(text("ready_timeout_ms")), int(text("start_timeout_ms"))),
            output_bytes_max=int(text("output_bytes_max")),
            check_command=shlex.split(text("check_command")),
            check_tcp=endpoint(tcp) if tcp else None,
            check_http=web_address(http) if http else None,
            check_interval_ms=int(text("check_interval_ms")),
            check_timeout_ms=int(text("check_timeout_ms")),
            check_failures=int(text("check_failures")),
        )


@dataclass(frozen=True, slots=True)
class Account:
    """Whose rights a process gets; None: those of the host."""

    user: int | None
    group: int | None
    groups: tuple[int, ...]
    environment: dict[str, str]


def account(user: str, group: str) -> Account:
    """Look up a user and a group, by name or number; the user's groups come with it.

    Raises:
        ResourceError: ``user-unknown``, ``group-unknown``.
    """
    import grp  # noqa: PLC0415 - a host without such resources does not need the databases
    import pwd  # noqa: PLC0415

    number: int | None = None
    groups: tuple[int, ...] = ()
    home = {"HOME": "/"}
    main: int | None = None
    if user:
        try:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
        except KeyError as error:
            raise ResourceError(f"no user {user!r} on this node", code="user-unknown") from error
        number, main = entry.pw_uid, entry.pw_gid
        groups = tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))
        home = {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    if group:
        try:
            found = grp.getgrgid(int(group)) if group.isdigit() else grp.getgrnam(group)
        except KeyError as error:
            raise ResourceError(f"no group {group!r} on this node", code="group-unknown") from error
        main = found.gr_gid
    return Account(number, main, groups, {"PATH": _PATH, "LANG": "C.UTF-8"} | home)
