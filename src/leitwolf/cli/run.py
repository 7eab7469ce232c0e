"""The command that starts a node: what it imports, every start of a node waits for."""

from __future__ import annotations

import os
import sys

import click

from leitwolf.system.settings import JOIN_ONLY_NAME, Settings, SettingsError

__all__ = ["run"]


@click.command()
@click.option("--runtime", envvar="LEITWOLF_RUNTIME", help="Runtime directory (a tmpfs).")
@click.option("--state", envvar="LEITWOLF_STATE", help="State directory.")
@click.option("--config", envvar="LEITWOLF_CONFIG", help="Configuration directory.")
@click.option("--join-only", is_flag=True, help="Make no leader and help none until one is met.")
def run(runtime: str | None, state: str | None, config: str | None, join_only: bool) -> None:
    """Run this node in the foreground (what the systemd unit calls)."""
    try:
        settings = Settings.load(os.environ, runtime=runtime, state=state, config=config)
    except SettingsError as error:
        click.echo(f"leitwolf: {error} [{error.code}]", err=True)
        sys.exit(2)
    if join_only:
        try:
            settings.state.mkdir(mode=0o700, parents=True, exist_ok=True)
            (settings.state / JOIN_ONLY_NAME).touch()
        except OSError as error:
            click.echo(f"leitwolf: {settings.state}: {error.strerror} [storage-io]", err=True)
            sys.exit(2)
    # A program of its own: guards are forked from it, and would hold what commands import.
    keeper = [sys.executable, "-m", "leitwolf.keeper.main"]
    os.execve(keeper[0], keeper, {**os.environ, **settings.environment()})  # noqa: S606 — as meant
