"""``leitwolf backup`` and ``leitwolf restore``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leitwolf import __version__
from leitwolf.cli.cluster import setup_text
from leitwolf.cli.common import Context, confirm, with_json, yes_option
from leitwolf.model.errors import Conflict, InvalidConfig, NotFound, StorageError
from leitwolf.system.durable import create_durably

if TYPE_CHECKING:
    from leitwolf.state import Backup

__all__ = ["COMMANDS"]


def _write_privately(path: Path, data: bytes) -> None:
    """Write a new file as a whole, for its owner alone; after a crash it is there or not."""
    try:
        create_durably(path, data)
    except FileExistsError as error:
        text = f"{path} is there already"
        raise Conflict(text, code="file-exists", hint="choose another name") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}", code="file-io") from error


def _read(path: Path) -> tuple[bytes, Backup]:
    from leitwolf.state import BACKUP_BYTES_MAX, decode_backup  # noqa: PLC0415 — slow, needed here

    try:
        with path.open("rb") as file:
            data = file.read(BACKUP_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}", code="no-such-file") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}", code="file-io") from error
    return data, decode_backup(data, name=str(path), product=__version__)


def _facts(backup: Backup) -> dict[str, object]:
    state = backup.content()
    return {
        "cluster": backup.name,
        "uuid": backup.cluster,
        "version": backup.product,
        "node": backup.node,
        "wall": backup.wall,
        "fresh": backup.fresh,
        "index": backup.index,
        "ballot": str(backup.ballot),
        "hash": backup.hash,
        "profile": state.profile,
        "nodes": [node.name for node in state.nodes.values()],
        "networks": list(state.networks),
        "groups": list(state.groups),
        "resources": len(state.resources),
    }


def _text(backup: Backup) -> str:
    state = backup.content()
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(backup.wall / 1e9))
    lines = [
        f"cluster {backup.name} ({backup.cluster}) at entry {backup.index}, ballot {backup.ballot}",
        f"made on {backup.node} at {when} by version {backup.product}; state {backup.hash[:16]}",
        f"nodes: {', '.join(node.name for node in state.nodes.values())}",
        f"groups: {', '.join(state.groups) or 'none'}; {len(state.resources)} resources",
    ]
    if not backup.fresh:
        lines.append("! no leader was heard when it was made: changes may be missing")
    return "\n".join(lines)


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Check FILE and say what it holds; make none.")
@with_json
def backup(context: Context, file: Path | None, verify: bool) -> None:
    """Write the state of the cluster to FILE: groups, resources, networks, wishes.

    Any node does, also one without a quorum: then it says so. FILE (default: name and entry of the
    cluster) is readable by its owner alone, for parameters of resources stand in it; keys, tokens
    and passwords of witnesses do not.
    """
    if verify:
        if file is None:
            raise InvalidConfig(
                "FILE is needed", field="file", hint="leitwolf backup FILE --verify"
            )
        _, found = _read(file)
        context.show({**_facts(found), "file": str(file)}, f"{file} is whole\n{_text(found)}")
        return
    from leitwolf.state import decode_backup  # noqa: PLC0415 — slow, needed here only

    data = context.client.backup()
    made = decode_backup(data, name="what the daemon sent", product=__version__)
    file = file or Path(f"leitwolf-{made.name}-{made.index}.backup")
    _write_privately(file, data)
    context.show({**_facts(made), "file": str(file)}, f"written: {file} (0600)\n{_text(made)}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--node-name", default="", help="Name of this node (default: the host name).")
@click.option("--replace", is_flag=True, help="Set aside the cluster that this node is in.")
@yes_option
@with_json
def restore(context: Context, file: Path, node_name: str, replace: bool, yes: bool) -> None:
    """Make a new cluster of this one node from a backup.

    It has the name, groups, resources, wishes, networks and profile of the backup, and a UUID,
    authority and keys of its own: the old cluster, should it live, never takes it for itself.
    Nothing starts before this node is resumed. Other nodes join anew.
    """
    data, found = _read(file)
    if replace and not yes:
        confirm(
            context,
            f"{_text(found)}\nStop all groups here, set the present cluster aside, and restore?",
            hint="leitwolf restore FILE --replace --yes",
        )
    setup = context.client.restore(data, node_name, replace=replace)
    context.show(setup, setup_text(setup))


COMMANDS = (backup, restore)
