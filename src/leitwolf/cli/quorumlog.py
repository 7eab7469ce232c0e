"""``leitwolf quorum log dump``: reads files of this machine; no daemon is needed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from leitwolf.cli.common import Context, with_json
from leitwolf.model.errors import StorageError

__all__ = ["log"]

_CHARACTERS_MAX = 100


@click.group("log")
def log() -> None:
    """The quorum log of this node, as it stands on its disk."""


@log.command("dump")
@click.option(
    "--state",
    envvar="LEITWOLF_STATE",
    default="/var/lib/leitwolf",
    show_default=True,
    type=click.Path(path_type=Path),
    help="State directory of a node, or a log that was set aside.",
)
@click.option("--after", default=0, help="Only what stands behind this entry.")
@click.option("--until", default=0, help="Only what stands up to this entry (0: the last).")
@with_json
def dump(context: Context, state: Path, after: int, until: int) -> None:
    """Print every record: promises, entries, commit hints, snapshots; nothing is changed.

    Works beside a running node, and where a node refuses to start. What is bad begins with "!".
    A last write that was not finished is no damage: nobody was told of it.

    Exit code 0: all that was durable is there; 1: something is damaged or missing.
    """
    from leitwolf.store import dump as read  # noqa: PLC0415 — slow, needed here only

    inside = state / "quorum"
    folder = inside if inside.is_dir() else state
    try:
        bad = _print(context, _between(read(folder), after, until))
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error}", code="file-io") from error
    sys.exit(1 if bad else 0)


def _between(lines: Iterator[dict[str, Any]], after: int, until: int) -> Iterator[dict[str, Any]]:
    """Leave out records before and behind these entries, but nothing that is bad."""
    index = 0
    for line in lines:
        index = line.get("index") or index if line["what"] == "record" else index
        inside = index > after and (not until or index <= until)
        if line["what"] != "record" or inside or "bad" in line:
            yield line


def _print(context: Context, lines: Iterator[dict[str, Any]]) -> bool:
    """Print as it comes, for a log may be long; return whether something is bad."""
    bad, between = False, "["
    for line in lines:
        bad = bad or "bad" in line
        if context.json:
            click.echo(between + msgspec.json.encode(line).decode(), nl=False)
            between = ",\n"
        else:
            click.echo(("! " if "bad" in line else "  ") + _text(line))
    if context.json:
        click.echo("]" if between != "[" else "[]")
    return bad


def _text(line: dict[str, Any]) -> str:
    tail = f"  ({line['bad']})" if "bad" in line else ""
    what = line["what"]
    if what == "identity":
        who = f"node {line['node']} of cluster {line['cluster']}, storage {line['storage']}"
        return f"quorum log of {who}{tail}"
    if what == "segment":
        header = line["header"]
        start = f", from record {header['position'] + 1} on" if header else ""
        durable = f", durable up to record {line['durable']}" if line["durable"] else ""
        return f"{line['segment']}{start}{durable}{tail}"
    if what == "unreadable":
        why = tail or "  (of a write that was not finished)"
        return f"unreadable: {line['bytes']} bytes at offset {line['offset']}{why}"
    if what == "missing":
        return f"missing: {line['segment']}{tail}"
    if what == "snapshot":
        return f"{line['name']}: state up to entry {line['index']}{tail}"
    return (
        _record(line) + ("" if line["chained"] else "  (does not continue what is before)") + tail
    )


def _record(line: dict[str, Any]) -> str:
    kind = line["kind"]
    start = f"{line['position']:>7}  {kind:<8}"
    if kind in {"promised", "forced"}:
        return f"{start}  {line['ballot']}"
    if kind == "entry":
        return f"{start}  {line['index']}  {line['ballot']}  {_change(line)}"
    if kind == "witness" and isinstance(line["witness"], dict):
        return f"{start}  what stands on {line['witness']['storage']}"
    return f"{start}  {line['index']}"


def _change(line: dict[str, Any]) -> str:
    change = line["change"]
    if not isinstance(change, dict):
        return "?"
    kinds = " ".join(event["kind"] for event in change.get("events", ()))
    text = f"{change['because']['text']} [{kinds}]"
    short = text if len(text) <= _CHARACTERS_MAX else text[: _CHARACTERS_MAX - 1] + "…"
    return short + ("  changes the quorum" if line["config"] else "")
