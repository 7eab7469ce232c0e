"""``./run docs``: writes docs/reference from the code, so that it cannot lie.

A test compares the pages with what this module would write.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from starlette.routing import Route

from docs.source import field_texts, given_codes, recorded_codes
from leitwolf.api.app import application
from leitwolf.cli.commands import cli
from leitwolf.core.lease.profile import (
    MARGIN_NS,
    PROFILES,
    RHO_PPM,
    STALL_FAIR_MS,
    STALL_REALTIME_MS,
)
from leitwolf.core.policy.codes import CAUSES, NOT_CHOSEN, REFUSALS
from leitwolf.core.rules import RULES
from leitwolf.model import commands, errors, limits, views
from leitwolf.model.types import TYPES
from leitwolf.peers.frames import Code
from leitwolf.system.settings import Settings
from leitwolf.wire.permit import may_start

__all__ = ["PAGES", "main"]

FOLDER = Path(__file__).parent / "reference"
_NOTE = "<!-- Written by ./run docs from the code. Do not edit. -->"


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", _NOTE, *(part for part in parts if part)]) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _code(value: object) -> str:
    return f"`{value}`" if value not in {"", None} else ""


# --- command line --------------------------------------------------------------------------------


def _option_rows(command: click.Command) -> list[tuple[str, str, str]]:
    rows = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            continue
        options = [*parameter.opts, *parameter.secondary_opts]
        default = parameter.default
        shown = isinstance(default, int | float | str) and not isinstance(default, bool)
        text = getattr(parameter, "help", "") or ""
        environment = f" Environment: `{parameter.envvar}`." if parameter.envvar else ""
        rows.append(
            (
                ", ".join(f"`{option}`" for option in options),
                _code(default) if shown and default not in {"", 0} else "",
                text + environment,
            )
        )
    return rows


def _commands(command: click.Command, path: str) -> list[str]:
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"## {path}", inspect.cleandoc(command.help or ""), f"```\n{usage}\n```"]
    rows = _option_rows(command)
    if rows:
        parts.append(_table(("option", "default", "meaning"), rows))
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            parts += _commands(command.commands[name], f"{path} {name}")
    return parts


def command_line() -> str:
    """Return the page of all commands."""
    return _page(
        "Commands",
        "Every command answers on any node. `--json` prints one JSON value on stdout (`log` and "
        "`status --watch` one after the other, a line each), and an error as one, too; progress "
        "goes to stderr, and without `--json` so do errors. Exit codes: "
        "[codes.md](codes.md#exit-codes-and-errors).",
        *_commands(cli, "leitwolf"),
    )


# --- resource types, limits, profiles, rules, settings -------------------------------------------


def resource_types() -> str:
    """Return the page of resource types."""
    parts = []
    for kind in TYPES.values():
        parts += [f"## {kind.name}", kind.text]
        rows = []
        for item in kind.parameters:
            span = f", {item.minimum}..{item.maximum}" if item.minimum is not None else ""
            default = "required" if item.required else _code(item.default)
            rows.append((f"`{item.name}`", item.kind + span, default, item.text))
        parts.append(_table(("parameter", "kind", "default", "meaning"), rows))
        parts += [
            f"At most one of {', '.join(f'`{name}`' for name in names)}."
            for names in kind.exclusive
        ]
    return _page(
        "Resource types",
        "What a group can consist of. `leitwolf resource types` prints the same.",
        *parts,
    )


def limit_table() -> str:
    """Return the page of limits."""
    texts = field_texts("model/limits.py")
    rows = [(f"`{name}`", f"{getattr(limits, name):,}", texts[name]) for name in limits.__all__]
    return _page("Limits", _table(("limit", "value", "reason"), rows))


def profiles() -> str:
    """Return the page of timing profiles."""
    uses = {
        "fast": "dedicated network, real-time scheduling",
        "default": "local network, real-time scheduling",
        "virtual": "virtual machines, or no real-time scheduling",
        "wan": "nodes at different places",
    }
    rows = [
        (f"`{p.name}`", p.heartbeat_ms, p.promise_ms, p.run_ms, p.kill_ms, uses[p.name])
        for p in PROFILES.values()
    ]
    return _page(
        "Timing profiles",
        "All times in milliseconds. A cluster has one profile; `leitwolf set --profile NAME` "
        "changes it, `leitwolf quorum status` shows it with what this machine holds. `leitwolf "
        "init` without `--profile` takes `default`, or `virtual` where this machine does not hold "
        "that; `fast` is never taken unasked: it needs a network of its own.",
        _table(("profile", "H", "P", "R", "K", "for"), rows),
        "- **H**: between two heartbeats.\n"
        "- **P**: promise of a node to its leader, and leader lease. The groups of a dead leader "
        "move about P after its death.\n"
        "- **R**: run-lease of the other nodes. The groups of a dead node that does not lead move "
        "R after its last acknowledged heartbeat.\n"
        "- **K**: kept back at the end of a lease to kill what runs.",
        "A profile is refused where it cannot be held: P must be at least 3 H + worst stall + "
        "round trip + K, and R at least P + election + H + K. The stall that is counted is at "
        f"least {STALL_REALTIME_MS} ms with real-time scheduling and {STALL_FAIR_MS} ms without. "
        f"Clocks may err by {RHO_PPM / 10_000:g} % in their rate; {MARGIN_NS / 1e6:g} ms are kept "
        "as margin besides.",
    )


def rules() -> str:
    """Return the page of safety rules."""
    return _page(
        "Safety rules",
        "Each rule can be switched off by name in tests only. A test must then see the harm, or "
        "the build fails: in random or directed runs of the simulator, and for a few rules of "
        "shared disks and witnesses in a directed run of one core whose disk the test plays, or in "
        "a search of all runs. L, R, I and A are explained in "
        "[guarantees.md](../guarantees.md) and in the docstrings of `core/lease` and "
        "`core/quorum`.",
        _table(("rule", "what breaks without it"), [(f"`{k}`", v) for k, v in RULES.items()]),
    )


def settings() -> str:
    """Return the page of a node's settings."""
    texts = field_texts("system/settings.py", "Settings")
    rows = [
        (f"`LEITWOLF_{name.upper()}`", _code(getattr(Settings(), name)), texts[name])
        for name in Settings.__dataclass_fields__
    ]
    return _page(
        "Settings of a node",
        "Environment of `leitwolf run`. Write them into the unit: `systemctl edit leitwolf`, "
        "`[Service]`, `Environment=NAME=VALUE`. Everything else is in the log of the cluster.",
        _table(("variable", "default", "meaning"), rows),
    )


# --- codes ---------------------------------------------------------------------------------------


def _error_rows(kind: type[errors.LeitwolfError], depth: int = 0) -> list[tuple[object, ...]]:
    text = (kind.__doc__ or "").split("\n")[0]
    again = "yes" if kind.retryable else ""
    rows: list[tuple[object, ...]] = [
        ("&nbsp;" * 2 * depth + kind.__name__, f"`{kind.code}`", kind.exit_code, again, text)
    ]
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            rows += _error_rows(child, depth + 1)
    return rows


def codes() -> str:
    """Return the page of all stable codes."""
    permit = inspect.getdoc(may_start) or ""
    reasons = permit[permit.index("Returns:") :].split("\n", 1)[1].replace("``", "`").split()
    given = given_codes()
    return _page(
        "Codes",
        "Codes are stable; texts may change. An error prints `[code]` at its end and has `code` in "
        "JSON.",
        "## Exit codes and errors",
        "0 done. 1 not all is well (`check`), or an error without a code of its own. 10 a group "
        "has failed (`status`). 130 ended by Ctrl-C.",
        _table(
            ("error", "code", "exit", "try again", "meaning"), _error_rows(errors.LeitwolfError)
        ),
        "## Causes\n\nOf entries in the log (`leitwolf log`, `leitwolf why`).",
        _table(("code", "meaning"), [(f"`{k}`", v) for k, v in CAUSES.items()]),
        "## Refused commands\n\nExit code 2 (a value is wrong), 3 (no such thing), 4 (not in the "
        "present state), or 6 where trying again may help.",
        _table(("code", "meaning"), [(f"`{k}`", v) for k, v in REFUSALS.items()]),
        "## Why a node was not chosen",
        _table(("code", "meaning"), [(f"`{k}`", v) for k, v in NOT_CHOSEN.items()]),
        "## Why a peer or joiner is turned away",
        ", ".join(f"`{code.value}`" for code in Code) + ".",
        "## Why a resource may not start now\n\nRead from the guard's page before and after "
        "every start.",
        " ".join(reasons),
        "## What a guard records\n\nShown by `leitwolf status` on a node without quorum.",
        _table(
            ("code", "where"),
            [(f"`{code}`", f"`{module}`") for code, module in _by_code(recorded_codes())],
        ),
        "## Given at one place\n\n… stands for what is filled in.",
        _table(
            ("code", "where", "text"),
            [(f"`{item.code}`", f"`{item.module}`", item.text) for item in given],
        ),
    )


def _by_code(items: Iterable[Any]) -> list[tuple[str, str]]:
    return sorted({(item.code, item.module) for item in items})


# --- API -----------------------------------------------------------------------------------------

ROUTES: dict[str, tuple[str, str]] = {
    "/v1/status": ("The cluster as this node sees it.", "StatusView"),
    "/v1/networks": (
        "Networks, and on each interconnect the link of each two nodes.",
        "list of NetworkView",
    ),
    "/v1/quorum": ("Who promised what; votes and leases.", "QuorumView"),
    "/v1/why/{group}": ("Where a group is and why.", "ExplanationView"),
    "/v1/types": ("Resource types.", "list of ResourceType"),
    "/v1/log": (
        "Timeline above `after` (index), at most `limit` lines; waits up to `wait_s` for one.",
        "list of LogLine",
    ),
    "/v1/wait": ("Waits until an entry above `after` is applied.", '{"index": n}'),
    "/v1/command": ("Has the leader do something. Body: a command, see below.", "Answer"),
    "/v1/init": ("Forms a cluster of one. Body: InitRequest.", "ClusterSetup"),
    "/v1/join": (
        "Joins a cluster. Body: JoinRequestView.",
        'lines of {"progress": text}, then {"joined": ClusterSetup} or a problem',
    ),
    "/v1/token": ("Makes a join token; `lifetime_s`.", '{"token": text}'),
    "/v1/rekey": ("Replaces the heartbeat key of all guards.", "Answer"),
    "/v1/backup": ("Returns the state of the cluster as a backup file.", "the bytes of the file"),
    "/v1/restore": (
        "Makes a cluster of one. Body: a backup file; `node_name`, `replace` (yes or no).",
        "ClusterSetup",
    ),
    "/v1/give-up": (
        "Gives up the history of this node for another one that it hears.",
        '{"given_up": true}',
    ),
    "/v1/prevent": (
        "Lets this node join only, or not. Body: PreventRequest.",
        '{"prevented": bool}',
    ),
    "/v1/destroy": ("Sets the state of this node aside.", '{"destroyed": true}'),
}
"""Path -> what it does, what it answers. A path without a line here stands in the page anyway."""


def _struct(kind: type[msgspec.Struct], module: str) -> str:
    texts = field_texts(module, kind.__name__)
    rows = []
    for field in msgspec.structs.fields(kind):
        annotation = kind.__annotations__.get(field.name, "")
        default = "required" if field.required else _code(_default(field))
        rows.append((f"`{field.name}`", f"`{annotation}`", default, texts.get(field.name, "")))
    text = (kind.__doc__ or "").split("\n\n")[0]
    table = _table(("field", "type", "default", "meaning"), rows) if rows else "No fields."
    return f"### {kind.__name__}\n\n{text}\n\n{table}"


def _default(field: msgspec.structs.FieldInfo) -> str:
    value = field.default
    if value is msgspec.NODEFAULT:
        value = field.default_factory() if callable(field.default_factory) else ""
    return msgspec.json.encode(value).decode()


def _structs(module: Any, path: str, names: Iterable[str]) -> list[str]:
    return [_struct(getattr(module, name), path) for name in names]


def api() -> str:
    """Return the page of the API."""
    service: Any = None  # the routes are looked at, not called
    unused: Any = None
    rows = []
    for route in application(service, unused).routes:
        if isinstance(route, Route):
            method = "GET" if "GET" in (route.methods or ()) else "POST"
            text, answer = ROUTES.get(route.path_format, ("", ""))
            rows.append((f"`{method} {route.path_format}`", text, answer))
    wanted = [kind.__name__ for kind in get_args(commands.Command)]
    return _page(
        "API",
        "HTTP/1.1 on the Unix socket `/run/leitwolf/api.sock`; the command line uses nothing else. "
        "GET needs root or the group `leitwolf`, POST needs root. Bodies and answers are JSON. "
        "Errors are problem documents (RFC 9457) with `code`, `hint`, `field`, `retryable`, "
        "`exit_code`. Unknown fields are refused.",
        "```\ncurl --unix-socket /run/leitwolf/api.sock http://node/v1/status\n```",
        _table(("request", "what it does", "answer"), rows),
        "## Commands\n\nThe field `kind` names the command: "
        '`{"kind": "MoveGroup", "group": "web"}`.',
        *_structs(commands, "model/commands.py", wanted),
        *_structs(commands, "model/commands.py", ("NewResource", "Answer", "Refusal")),
        "## Views",
        *_structs(views, "model/views.py", views.__all__),
    )


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": command_line,
    "resource-types.md": resource_types,
    "codes.md": codes,
    "api.md": api,
    "limits.md": limit_table,
    "profiles.md": profiles,
    "rules.md": rules,
    "settings.md": settings,
}


def main() -> int:
    """Write all pages that differ; say which."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        path, text = FOLDER / name, make()
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stderr.write(f"written: {path.relative_to(FOLDER.parents[1])}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
