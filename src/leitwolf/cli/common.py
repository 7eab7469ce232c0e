"""What all commands share: the client, output as text or JSON, errors."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import click
import msgspec

from leitwolf.client import Client
from leitwolf.model.commands import Answer, Command, TransferLeader
from leitwolf.model.errors import Conflict, LeitwolfError, NoQuorum, NotFound, UsageError
from leitwolf.model.ids import NodeId
from leitwolf.model.views import NodeLine, StatusView

__all__ = [
    "Context",
    "complete_group",
    "complete_node",
    "complete_resource",
    "confirm",
    "find_node",
    "hand_over",
    "lifetime_option",
    "named_node",
    "pass_context",
    "report",
    "send",
    "timeout_option",
    "warn_if_old",
    "when_settled",
    "with_json",
    "with_json_of",
    "yes_option",
]

F = TypeVar("F", bound=Callable[..., Any])

_LOOK_S = 0.1
_SETTLED_S = 60.0
"""So long is a change of votes waited for: on the profile wan one takes five seconds."""


class Context:
    """State of one invocation."""

    def __init__(self, runtime: str | None, if_index: int | None = None) -> None:
        """Remember where the daemon is, and since when nothing may have changed."""
        self.runtime = Path(runtime) if runtime else None
        self._if_index = if_index
        self.json = False
        self.waits_for = ""
        """What goes on when the caller ends the waiting for it; '': nothing."""

    @functools.cached_property
    def client(self) -> Client:
        """A client of the local daemon, one for all commands of this invocation."""
        return Client(self.runtime, unchanged_since=self._if_index)

    def patient_client(self, timeout_s: float) -> Client:
        """Return a client of the local daemon that waits for so long."""
        return Client(self.runtime, timeout_s=timeout_s, unchanged_since=self._if_index)

    def show(self, value: object, text: str | None = None) -> None:
        """Print a value as JSON, or its text."""
        if self.json or text is None:
            click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
        elif text:
            click.echo(text)

    def show_line(self, value: object, text: str) -> None:
        """Print one of many values as a line of JSON, or its text."""
        click.echo(msgspec.json.encode(value).decode() if self.json else text)

    def progress(self, text: str) -> None:
        """Say what is going on, on stderr, so that stdout stays clean."""
        if not self.json:
            click.echo(text, err=True)


class Interrupted(LeitwolfError):
    """Somebody pressed Ctrl-C."""

    code = "interrupted"
    exit_code = 130


pass_context = click.make_pass_decorator(Context)


# --- completion ----------------------------------------------------------------------------------


def _completes(
    names: Callable[[StatusView], Iterable[str]],
) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Let a shell complete an argument by names that the daemon knows; without it, by nothing."""

    def complete(context: click.Context, _: click.Parameter, begun: str) -> list[str]:
        runtime = Path(context.find_root().params["runtime"])
        try:
            view = Client(runtime, timeout_s=1).status()
        except LeitwolfError:
            return []
        return [name for name in names(view) if name.startswith(begun)]

    return complete


complete_group = _completes(lambda view: [group.id for group in view.groups])
complete_node = _completes(lambda view: [node.name for node in view.nodes])
complete_resource = _completes(
    lambda view: [resource.id for group in view.groups for resource in group.resources]
)


# --- output and errors ---------------------------------------------------------------------------


def with_json(function: F) -> F:
    """Give a command ``--json`` and turn errors into coded exits."""
    return with_json_of("one JSON value")(function)


def with_json_of(what: str) -> Callable[[F], F]:
    """Do as :func:`with_json`, for a command that prints ``what``."""

    def give(function: F) -> F:
        @functools.wraps(function)
        def wrapper(context: Context, *args: Any, as_json: bool, **kwargs: Any) -> None:
            context.json = as_json
            try:
                function(context, *args, **kwargs)
            except LeitwolfError as error:
                report(context, error)
            except KeyboardInterrupt:
                if context.waits_for:
                    report(context, Interrupted("not waiting any more", hint=context.waits_for))
                sys.exit(Interrupted.exit_code)  # of what follows until Ctrl-C: nothing to tell

        passed: Any = pass_context(cast("Any", wrapper))
        option = click.option("--json", "as_json", is_flag=True, help=f"Print {what} on stdout.")
        return cast("F", option(passed))

    return give


def report(context: Context, error: LeitwolfError) -> NoReturn:
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


def timeout_option(default_s: float) -> Callable[[F], F]:
    """Give a command ``--timeout``, in seconds."""
    return click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(min=0),
        default=default_s,
        show_default=True,
        help="Seconds to wait.",
    )


def lifetime_option(function: F) -> F:
    """Give a command ``--lifetime`` of the token that it makes."""
    return click.option(
        "--lifetime", default=3600, show_default=True, help="Seconds until it expires."
    )(function)


def yes_option(function: F) -> F:
    """Give a command ``--yes``, for who answers :func:`confirm` beforehand."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(function)


def send(context: Context, command: Command, text: str) -> Answer:
    """Send a command and print what was done; votes that are being changed are waited for."""
    answer = when_settled(context, command)
    context.show(answer, f"{text} (entry {answer.index})")
    return answer


def when_settled(context: Context, command: Command) -> Answer:
    """Send a command again while another change of the quorum is under way, for a minute.

    Votes follow who is there: nobody ordered that change, and it ends by itself.
    """
    deadline, told = time.monotonic() + _SETTLED_S, False
    while True:
        try:
            return context.client.command(command)
        except LeitwolfError as error:
            if error.code != "quorum-changing" or time.monotonic() > deadline:
                raise
        if not told:
            context.progress("another change of the quorum is under way: waiting for its end")
            told = True
        time.sleep(_LOOK_S)


def hand_over(context: Context, target: NodeId, what: str, *, wait: bool, timeout_s: float) -> None:
    """Have a node lead (0: another one), and tell who does.

    Args:
        context: the invocation.
        target: the node.
        what: is handed over, in words.
        wait: until somebody leads; else it is only begun.
        timeout_s: how long to wait.

    Raises:
        Conflict: ``another-leads``, another node was quicker than the one that was named.
        NoQuorum: nobody leads in that time.
    """
    answer = context.client.command(TransferLeader(node=target))
    if not wait:
        context.show(answer, f"{what} is being handed over (entry {answer.index})")
        return
    context.waits_for = "it goes on without you; see: leitwolf status"
    context.progress("waiting until somebody leads")
    deadline = time.monotonic() + timeout_s
    while True:
        status = context.client.status()
        leader = next((node for node in status.nodes if node.leader), None)
        # Its first entry is behind all that the former one committed.
        if leader is not None and (leader.id == target or status.index > answer.index):
            break
        if time.monotonic() > deadline:
            raise NoQuorum("nobody leads yet", hint="leitwolf status")
        context.client.wait_beyond(status.index, _LOOK_S)
    if target not in (0, leader.id):
        raise Conflict(
            f"{leader.name} was quicker, and leads now",
            code="another-leads",
            hint="ask again, when the node that is to lead is less busy",
        )
    context.show(answer, f"{what} is handed over to {leader.name} (entry {answer.index})")


def find_node(status: StatusView, name: str) -> NodeId:
    """Return the id of the node with this name or number, see :func:`named_node`."""
    return named_node(status, name).id


def named_node(status: StatusView, name: str) -> NodeLine:
    """Return the node with this name or number.

    Raises:
        NotFound: no such node; the text lists the names.
    """
    for node in status.nodes:
        if name in (node.name, str(node.id)):
            return node
    names = ", ".join(node.name for node in status.nodes)
    raise NotFound(f"there is no node {name!r}; nodes are: {names}")


def warn_if_old(context: Context) -> None:
    """Say on stderr that what is shown may be old, where there is no quorum."""
    status = context.client.status()
    if status.formed and not status.quorum:
        click.echo("! no quorum here: as this node knows it, may be old", err=True)
