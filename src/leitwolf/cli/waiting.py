"""Waiting for what a command brought about: ``--wait/--no-wait``, progress, and the outcome."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from leitwolf.cli.common import Context, timeout_option, when_settled
from leitwolf.model.commands import Command
from leitwolf.model.errors import Conflict, NotFound, PeerUnreachable, RequestTimeout
from leitwolf.model.views import GroupView, ResourceView, StatusView

__all__ = [
    "KEYS",
    "PROFILE",
    "VOTES",
    "as_wished",
    "change",
    "unwanted_because",
    "wait_for_change",
    "wait_for_group",
    "wait_for_resource",
    "wait_option",
    "wait_options",
    "wait_until",
    "wait_until_removed",
]

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
_LOOK_S = 1.0
"""What is waited for may come about without an entry of the log."""
_RETRY_S = 0.1


def wait_options(default_s: float) -> Callable[[F], F]:
    """Give a command ``--wait/--no-wait`` and ``--timeout``, of so many seconds by default."""

    def options(function: F) -> F:
        function = timeout_option(default_s)(function)
        return click.option(
            "--wait/--no-wait", default=True, help="Wait for the outcome (default)."
        )(function)

    return options


wait_option = wait_options(60.0)


def wait_until(
    context: Context,
    look: Callable[[StatusView], tuple[T | None, str]],
    *,
    index: int,
    timeout_s: float,
) -> T:
    """Wait until a command has had its effect, telling progress.

    Args:
        context: the invocation; ``waits_for`` says what goes on when nobody waits any more.
        look: returns the outcome, or None and how things stand.
        index: entry of the command; older states do not count.
        timeout_s: seconds.

    What was asked goes on without the daemon here: one that starts again is waited for.

    Raises:
        RequestTimeout: there is no outcome in time.
        PeerUnreachable: no daemon answers here any more.
    """
    client, deadline, said = context.client, time.monotonic() + timeout_s, ""

    def tell(line: str) -> None:
        nonlocal said
        if line != said:
            said = line
            context.progress(line)

    while True:
        try:
            status = client.status()
            outcome, line = None, f"entry {index} is not here yet"
            if status.index >= index:
                outcome, line = look(status)
            if outcome is not None:
                return outcome
            tell(line)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                text = f"not done after {timeout_s:g} s: {line}"
                raise RequestTimeout(text, hint=context.waits_for)
            client.wait_beyond(status.index, min(remaining, _LOOK_S))
        except PeerUnreachable as error:
            if time.monotonic() >= deadline:
                error.hint = f"{context.waits_for}; {error.hint}"
                raise
            tell(error.text)
            time.sleep(_RETRY_S)


# --- what the whole cluster takes part in ---------------------------------------------------------

VOTES, PROFILE, KEYS = "votes", "profile", "keys"
"""What is waited for; the keys of ``under_way`` in the status."""


def wait_for_change(context: Context, kind: str, *, index: int, timeout_s: float) -> None:
    """Wait until nothing lacks of a change of one of these kinds.

    Raises:
        RequestTimeout: something still does; the text says what.
    """

    def look(status: StatusView) -> tuple[bool | None, str]:
        lacks = status.under_way.get(kind, "")
        return (None, f"{kind}: {lacks}") if lacks else (True, "")

    context.waits_for = "it goes on without you; see: leitwolf status"
    wait_until(context, look, index=index, timeout_s=timeout_s)


def change(
    context: Context,
    command: Command,
    kind: str,
    *,
    begun: str,
    done: str,
    timeout_s: float | None,
) -> None:
    """Send a command, wait until nothing lacks of what it changes, and tell it.

    Args:
        context: the invocation.
        command: what to do.
        kind: of what it changes.
        begun: what is to be told when nobody waits.
        done: what is to be told at the end.
        timeout_s: how long to wait, None: not at all.

    Raises:
        RequestTimeout: it is not complete in time.
    """
    answer = when_settled(context, command)
    if timeout_s is not None:
        wait_for_change(context, kind, index=answer.index, timeout_s=timeout_s)
    context.show(answer, f"{begun if timeout_s is None else done} (entry {answer.index})")


# --- groups --------------------------------------------------------------------------------------


def _find(status: StatusView, name: str) -> GroupView | None:
    return next((group for group in status.groups if group.id == name), None)


def _group(status: StatusView, name: str) -> GroupView:
    found = _find(status, name)
    if found is None:
        raise NotFound(f"there is no group {name!r}")
    return found


def _line(group: GroupView) -> str:
    return f"{group.id}: {group.status} on {group.owner or 'no node'} ({group.reason})"


def _failure(group: GroupView, of: frozenset[str]) -> Conflict | None:
    """Return why one of these resources failed, in its own words; None: none did."""
    hint = f"leitwolf why {group.id}; then: leitwolf group recover {group.id}"
    for item in group.resources:
        if item.state == "failed" and item.id in of:
            text = f"group {group.id} failed: {item.reason}"
            return Conflict(text, code=item.code, hint=hint)
    return None


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

    def look(status: StatusView) -> tuple[GroupView | None, str]:
        group = _group(status, name)
        if done(group):
            return group, ""
        failure = _failure(group, frozenset(item.id for item in group.resources))
        if failure is not None:
            raise failure
        return None, _line(group)

    context.waits_for = f"it goes on without you; ask: leitwolf why {name}"
    return wait_until(context, look, index=index, timeout_s=timeout_s)


def wait_until_removed(context: Context, name: str, *, index: int, timeout_s: float) -> None:
    """Wait until nothing of a group runs any more and it is removed.

    Raises:
        RequestTimeout: it is still there.
    """

    def look(status: StatusView) -> tuple[bool | None, str]:
        group = _find(status, name)
        return (True, "") if group is None else (None, _line(group))

    context.waits_for = f"it goes on without you; ask: leitwolf why {name}"
    wait_until(context, look, index=index, timeout_s=timeout_s)


# --- resources -----------------------------------------------------------------------------------


def _needs(group: GroupView, name: str) -> list[ResourceView]:
    """Return a resource and all that it needs, itself first."""
    known = {item.id: item for item in group.resources}
    found, pending = {name: known[name]}, [name]
    while pending:
        for other in known[pending.pop()].depends:
            if other in known and other not in found:
                found[other] = known[other]
                pending.append(other)
    return list(found.values())


def unwanted_because(group: GroupView, name: str) -> str:
    """Return why a resource is not to be online, '': it is."""
    if group.wish != "online":
        return f"group {group.id} is to be {group.wish}"
    for item in _needs(group, name):
        if item.wish != "online":
            what = "it" if item.id == name else f"{item.id}, which it needs,"
            return f"{what} is to be {item.wish}"
    return ""


def _settled(group: GroupView, item: ResourceView) -> bool:
    return item.state == ("offline" if unwanted_because(group, item.id) else "online")


def as_wished(group: GroupView) -> bool:
    """Return whether all of a group is in the state in which the operator wants it."""
    return all(_settled(group, item) for item in group.resources)


def wait_for_resource(
    context: Context, name: str, *, index: int, timeout_s: float
) -> tuple[GroupView, ResourceView]:
    """Wait until a resource is in the state in which the operator wants it.

    Raises:
        Conflict: it failed, or something that it needs.
        RequestTimeout: it is not there in time.
    """

    def look(status: StatusView) -> tuple[tuple[GroupView, ResourceView] | None, str]:
        for group in status.groups:
            for item in group.resources:
                if item.id == name:
                    context.waits_for = f"it goes on without you; ask: leitwolf why {group.id}"
                    return judge(group, item)
        raise NotFound(f"there is no resource {name!r} any more")

    def judge(
        group: GroupView, item: ResourceView
    ) -> tuple[tuple[GroupView, ResourceView] | None, str]:
        if _settled(group, item):
            return (group, item), ""
        failure = _failure(group, frozenset(one.id for one in _needs(group, name)))
        if failure is not None:
            raise failure
        return None, f"{name}: {item.state} ({item.reason}); group {_line(group)}"

    context.waits_for = "it goes on without you; see: leitwolf status"
    return wait_until(context, look, index=index, timeout_s=timeout_s)
