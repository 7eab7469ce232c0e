"""What all commands share: the client, output as text or JSON, waiting, errors."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import click
import msgspec

from leitwolf.client import Client
from leitwolf.model.commands import Answer, Command
from leitwolf.model.errors import (
    Conflict,
    LeitwolfError,
    NotFound,
    RequestTimeout,
    UsageError,
)
from leitwolf.model.ids import NodeId
from leitwolf.model.views import GroupView, StatusView

__all__ = [
    "Context",
    "confirm",
    "find_node",
    "pass_context",
    "send",
    "wait_for_group",
    "wait_option",
    "with_json",
]

F = TypeVar("F", bound=Callable[..., Any])


class Context:
    """State of one invocation."""

    def __init__(self, runtime: str | None, if_index: int | None = None) -> None:
        """Remember where the daemon is, and since when nothing may have changed."""
        self.runtime = Path(runtime) if runtime else None
        self._if_index = if_index
        self.json = False

    @functools.cached_property
    def client(self) -> Client:
        """A client of the local daemon, one for all commands of this invocation."""
        return Client(self.runtime, unchanged_since=self._if_index)

    def show(self, value: object, text: str | None = None) -> None:
        """Print a value as JSON, or its text."""
        if self.json or text is None:
            click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
        elif text:
            click.echo(text)

    def progress(self, text: str) -> None:
        """Say what is going on, on stderr, so that stdout stays clean."""
        if not self.json:
            click.echo(text, err=True)


pass_context = click.make_pass_decorator(Context)


def with_json(function: F) -> F:
    """Give a command ``--json`` and turn errors into coded exits."""

    @functools.wraps(function)
    def wrapper(context: Context, *args: Any, as_json: bool, **kwargs: Any) -> None:
        context.json = as_json
        try:
            function(context, *args, **kwargs)
        except LeitwolfError as error:
            report(context, error)

    passed: Any = pass_context(cast("Any", wrapper))
    option = click.option("--json", "as_json", is_flag=True, help="Print one JSON value on stdout.")
    return cast("F", option(passed))


def report(context: Context, error: LeitwolfError) -> None:
    """Print an error with its code and what to do, and leave with its exit code."""
    if context.json:
        body = {"code": error.code, "error": error.text, "hint": error.hint, "field": error.field}
        click.echo(msgspec.json.encode(body).decode())
    else:
        click.echo(f"leitwolf: {error.text} [{error.code}]", err=True)
        if error.hint:
            click.echo(f"  -> {error.hint}", err=True)
    sys.exit(error.exit_code)


def confirm(context: Context, question: str, *, hint: str) -> None:
    """Ask a person; with ``--json`` nobody is asked.

    Raises:
        UsageError: ``not-confirmed``: the answer is no, or there is none; ``hint`` says how to do
            it without being asked.
    """
    said = ""
    if not context.json:
        try:
            if click.confirm(question, err=True):
                return
        except click.Abort:
            click.echo(err=True)
            said = " (nobody answered)"
    raise UsageError(f"not done: it was not confirmed{said}", code="not-confirmed", hint=hint)


def wait_option(function: F) -> F:
    """Give a command ``--wait/--no-wait`` and ``--timeout``."""
    function = click.option(
        "--timeout", "timeout_s", default=60.0, show_default=True, help="Seconds to wait."
    )(function)
    return click.option("--wait/--no-wait", default=True, help="Wait for the outcome (default).")(
        function
    )


def send(context: Context, command: Command, text: str) -> Answer:
    """Send a command and print what was done."""
    answer = context.client.command(command)
    context.show(answer, f"{text} (entry {answer.index})")
    return answer


def find_node(status: StatusView, name: str) -> NodeId:
    """Return the id of the node with this name or number.

    Raises:
        NotFound: no such node; the text lists the names.
    """
    for node in status.nodes:
        if name in (node.name, str(node.id)):
            return node.id
    names = ", ".join(node.name for node in status.nodes)
    raise NotFound(f"there is no node {name!r}; nodes are: {names}")


def _group(status: StatusView, name: str) -> GroupView:
    for group in status.groups:
        if group.id == name:
            return group
    raise NotFound(f"there is no group {name!r}")


def _failure(group: GroupView) -> Conflict:
    """Return why a group failed: in the words of the resource that did."""
    hint = f"leitwolf why {group.id}; then: leitwolf group recover {group.id}"
    for item in group.resources:
        if item.state == "failed":
            text = f"group {group.id} failed: {item.reason}"
            return Conflict(text, code=item.code, hint=hint)
    return Conflict(f"group {group.id} failed: {group.reason}", code="group-failed", hint=hint)


def wait_for_group(
    context: Context,
    name: str,
    done: Callable[[GroupView], bool],
    *,
    index: int,
    timeout_s: float,
) -> GroupView:
    """Wait until a group is as wanted, telling progress.

    Args:
        context: the invocation.
        name: the group.
        done: tells whether the group is as wanted.
        index: entry of the command; older states do not count.
        timeout_s: seconds.

    Raises:
        Conflict: the group failed.
        RequestTimeout: it is not as wanted in time.
    """
    client, deadline, said = context.client, time.monotonic() + timeout_s, ""
    while True:
        status = client.status()
        group = _group(status, name)
        if status.index >= index:
            if done(group):
                return group
            if group.status == "failed":
                raise _failure(group)
        line = f"{name}: {group.status} on {group.owner or 'no node'} ({group.reason})"
        if line != said:
            said = line
            context.progress(line)
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise RequestTimeout(
                f"group {name} is {group.status} after {timeout_s:g} s: {group.reason}",
                hint=f"it goes on without you; ask: leitwolf why {name}",
            )
        client.wait_beyond(status.index, min(remaining, 1.0))
