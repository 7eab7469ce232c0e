"""``leitwolf witness ...``: the third voice of two nodes, and what can be one."""

from __future__ import annotations

from pathlib import Path

import click

from leitwolf.cli.common import Context, with_json
from leitwolf.model.location import parse_listen

__all__ = ["COMMANDS"]

_STATE = "/var/lib/leitwolf-witness"
_state_option = click.option(
    "--state",
    envvar="LEITWOLF_WITNESS_STATE",
    default=_STATE,
    show_default=True,
    help="State directory of the witness.",
)


@click.group("witness")
def witness() -> None:
    """Witnesses: serve one, introduce a cluster to it, test a location."""


@witness.command("serve")
@click.option(
    "--listen", default="0.0.0.0:6475", show_default=True, help="ADDRESS:PORT to listen at."
)
@_state_option
@with_json
def serve(context: Context, listen: str, state: str) -> None:
    """Serve values to clusters, on a machine that is no node of theirs.

    One process for many clusters; needs no root. Runs until SIGTERM.
    """
    from leitwolf.witness.server import run  # noqa: PLC0415 — slow imports, needed here only

    endpoint = parse_listen(listen)
    context.progress(f"witness at {endpoint}, state in {state}")
    run(Path(state), endpoint)


@witness.command("token")
@click.argument("name")
@click.option("--replace", is_flag=True, help="Earlier tokens of this cluster count no more.")
@_state_option
@with_json
def token(context: Context, name: str, replace: bool, state: str) -> None:
    """Let a cluster use the witness of this machine: print a token for its nodes.

    NAME is what its location ends with, usually the UUID of the cluster. The token holds a secret
    and the fingerprint of the witness's certificate; it does not expire.
    """
    from leitwolf.witness.vault import Vault  # noqa: PLC0415 — slow imports, needed here only

    vault = Vault(Path(state))
    vault.prepare()
    made = vault.add_token(name, replace=replace)
    context.progress(
        f"put this into witness.ini of the configuration directory of every node, mode 0600,\n"
        f"below [witness://HOST:PORT/{name}]:"
    )
    value = {"name": name, "token": str(made), "fingerprint": made.fingerprint}
    context.show(value, f"token = {made}")


@witness.command("test")
@click.argument("location")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    help="Seconds per call.",
)
@click.option(
    "--config",
    envvar="LEITWOLF_CONFIG",
    default="/etc/leitwolf",
    show_default=True,
    help="Configuration directory, with witness.ini.",
)
@with_json
def test(context: Context, location: str, timeout_s: float, config: str) -> None:
    """Test whether a location can be a witness, with a scratch value beside the real one.

    Exit code 0: it can; 8: it cannot, and the text says what it does wrong.
    """
    from leitwolf.witness.opening import try_location  # noqa: PLC0415 — slow imports

    report = try_location(location, config_dir=Path(config), timeout_s=timeout_s)
    lines = [
        f"{'ok  ' if item.ok else 'BAD '}  {item.name}: {item.found}" for item in report.checks
    ]
    if report.ok:
        context.show(report, "\n".join([*lines, f"{location} can be a witness"]))
        return
    context.progress("\n".join(lines))
    report.demand(location)


COMMANDS = (witness,)
