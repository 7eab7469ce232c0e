"""``leitwolf quorum disk``: works on the local machine, without a daemon."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from leitwolf.cli.common import Context, with_json
from leitwolf.model.errors import InvalidConfig, StorageError

if TYPE_CHECKING:
    from leitwolf.witness.inspect import DiskView, SlotView

__all__ = ["disk"]


@click.group("disk")
def disk() -> None:
    """A quorum disk: a shared device, a file on a share, or an iSCSI LUN.

    LOCATION is a path, or iscsi://portal[:port]/target/lun.
    """


def _own_cluster() -> str:
    """Return the UUID of the cluster that this node belongs to.

    Raises:
        InvalidConfig: it is in none.
    """
    from leitwolf.store import OsFileSystem, read_identity  # noqa: PLC0415 — slow, needed here only

    state = Path(os.environ.get("LEITWOLF_STATE", "/var/lib/leitwolf"))
    try:
        return read_identity(state / "quorum", OsFileSystem()).cluster
    except StorageError as error:
        raise InvalidConfig(
            "cluster: this machine is in no cluster, so it must be named",
            field="cluster",
            hint="--cluster UUID; leitwolf status --json shows it on a node of the cluster",
        ) from error


def _uuid(text: str) -> str:
    """Return the UUID of a cluster in its normal form."""
    from uuid import UUID  # noqa: PLC0415 — needed here only

    try:
        return str(UUID(text))
    except ValueError as error:
        raise InvalidConfig(
            f"cluster = {text!r} is no UUID",
            field="cluster",
            hint="leitwolf status --json shows it on a node of the cluster",
        ) from error


@disk.command("format")
@click.argument("location")
@click.option("--cluster", default="", help="UUID of the cluster (default: this node's).")
@click.option(
    "--nodes", "nodes_max", default=8, show_default=True, help="Highest number of a node, 1..64."
)
@click.option(
    "--region",
    "region_mib",
    default=16,
    show_default=True,
    help="MiB for the cluster's state, twice for each node.",
)
@click.option("--force", is_flag=True, help="Overwrite what the device holds.")
@click.option("--create", is_flag=True, help="Make the file if it is not there.")
@with_json
def format_(
    context: Context,
    location: str,
    cluster: str,
    nodes_max: int,
    region_mib: int,
    force: bool,
    create: bool,
) -> None:
    """Make a quorum disk of a device, once and on one node.

    A device that holds anything is refused, and what it holds is named.
    """
    from leitwolf.witness.format import format_disk  # noqa: PLC0415 — slow, needed here only

    done = format_disk(
        location,
        cluster=_uuid(cluster) if cluster else _own_cluster(),
        nodes_max=nodes_max,
        region_bytes=region_mib << 20,
        force=force,
        create=create,
        progress=context.progress,
    )
    lost = f"; what it held is gone: {done.found}" if done.found else ""
    context.show(
        done,
        f"{location} is the quorum disk {done.disk} of cluster {done.cluster}, for nodes "
        f"1..{nodes_max}; it uses {done.used_bytes >> 20} MiB{lost}",
    )


@disk.command("check")
@click.argument("location")
@with_json
def check(context: Context, location: str) -> None:
    """Check every copy on a quorum disk, and the time that reads take; writes nothing.

    Exit code 0: all is whole; 1: something is damaged. A copy that a node is just writing may
    look damaged for a moment.
    """
    from leitwolf.witness.inspect import check_disk  # noqa: PLC0415 — slow, needed here only

    found = check_disk(location, progress=context.progress)
    reads = found.reads
    lines = [
        f"{'ok  ' if found.ok else 'LOST'}  {location}: quorum disk {found.view.header.disk}",
        *(f"      {fault}" for fault in found.faults),
    ]
    times = (
        f"      reads: p50 {reads.p50_ns / 1e6:.2f} ms, p99 {reads.p99_ns / 1e6:.2f} ms, "
        f"worst {reads.worst_ns / 1e6:.2f} ms"
    )
    if found.unfenced:
        lines.append(
            f"note  {found.unfenced}: an evicted node that does not know it can write there "
            "[witness-unfenced]\n      -> a LUN with SCSI-3 persistent reservations, as a whole "
            "disk or as iscsi://"
        )
    context.show(found, "\n".join([*lines, times]))
    sys.exit(0 if found.ok else 1)


def _slot_line(slot: SlotView) -> str:
    block = slot.block
    if block is None:
        return f"  node {slot.node}: " + ("never wrote" if any(slot.copies) else "DAMAGED")
    flags = [name for name in ("armed", "released", "distrusted") if getattr(block, name)]
    return (
        f"  node {slot.node}: promised {block.promised}, accepted {block.accepted}, "
        f"entry {block.key.index} ({block.key.ballot}), commit {block.commit}, "
        f"stamp {block.stamp}{' ' + ' '.join(flags) if flags else ''}\n"
        f"    region {block.region}, generation {block.generation}: snapshot up to "
        f"{slot.snapshot_index}, {slot.entries} entries up to {slot.last_index}, "
        f"{slot.region_bytes >> 10} KiB{'' if slot.region_whole else ', DAMAGED'}"
    )


def _dump_text(view: DiskView) -> str:
    header = view.header
    first = (
        f"quorum disk {header.disk} of cluster {header.cluster}: nodes 1..{header.nodes_max}, "
        f"regions of {header.region_bytes >> 20} MiB"
    )
    return "\n".join([first, *map(_slot_line, view.slots)])


@disk.command("dump")
@click.argument("location")
@with_json
def dump(context: Context, location: str) -> None:
    """Show what every node wrote on a quorum disk; writes nothing."""
    from leitwolf.witness.inspect import dump_disk  # noqa: PLC0415 — slow, needed here only

    view = dump_disk(location, progress=context.progress)
    context.show(view, _dump_text(view))
