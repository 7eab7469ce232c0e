"""Replay one simulated run: ``python -m lab.simulate --seed N [--trace] [--mutant RULE]``.

What a failing seed prints is a command line of this module. The seed and the options decide the run
to the last event, on every machine.
"""

from __future__ import annotations

import argparse
import sys

from leitwolf.core.lease import PROFILES
from leitwolf.core.rules import RULES, Rules
from leitwolf.sim.forming import QUORUMS
from leitwolf.sim.scenario import MIXES, Outcome, Setting, simulate

__all__ = ["describe", "main", "parsed", "replay_command"]

_TRACE_LINES = 40


def replay_command(outcome: Outcome) -> str:
    """Return the one command that repeats a run."""
    setting, usual = outcome.setting, Setting()
    words = [".venv/bin/python -m lab.simulate", f"--seed {outcome.seed}"]
    words.append(f"--nodes {setting.nodes}")
    if setting.spares != usual.spares:
        words.append(f"--spares {setting.spares}")
    if setting.profile != usual.profile:
        words.append(f"--profile {setting.profile}")
    if setting.chaos_s != usual.chaos_s:
        words.append(f"--seconds {setting.chaos_s:g}")
    if setting.quorum != usual.quorum:
        words.append(f"--quorum {setting.quorum}")
    if setting.dynamic:
        words.append("--dynamic")
    if setting.mix != usual.mix:
        words.append(f"--mix {setting.mix}")
    words.extend(f"--mutant {rule}" for rule in setting.without)
    return " ".join(words)


def describe(outcome: Outcome, lines: int = _TRACE_LINES) -> str:
    """Return a violation with the end of its trace and the command that repeats it."""
    trace = outcome.trace[-lines:]
    return "\n".join([*trace, "", outcome.violation, f"replay: {replay_command(outcome)} --trace"])


def say(text: str) -> None:
    """Tell the person in front of the terminal."""
    print(text)  # noqa: T201


def parsed(arguments: list[str]) -> tuple[int, Setting, bool]:
    """Return the seed and the setting of a run, and whether its whole trace is wanted."""
    parser = argparse.ArgumentParser(prog="python -m lab.simulate", description=__doc__)
    usual = Setting()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--nodes", type=int, default=usual.nodes)
    parser.add_argument("--spares", type=int, default=usual.spares, help="machines that may join")
    parser.add_argument("--profile", choices=sorted(PROFILES), default=usual.profile)
    parser.add_argument("--seconds", type=float, default=usual.chaos_s, help="of faults, simulated")
    parser.add_argument("--quorum", choices=sorted(QUORUMS), default=usual.quorum)
    parser.add_argument("--dynamic", action="store_true", help="votes follow who is there")
    parser.add_argument("--mix", choices=sorted(MIXES), default=usual.mix, help="which faults")
    parser.add_argument("--mutant", choices=sorted(RULES), action="append", default=[])
    parser.add_argument("--trace", action="store_true", help="print the whole trace")
    options = parser.parse_args(arguments)
    setting = Setting(
        nodes=options.nodes,
        spares=options.spares,
        profile=options.profile,
        chaos_s=options.seconds,
        quorum=options.quorum,
        dynamic=options.dynamic,
        mix=options.mix,
        without=Rules.without(*options.mutant).off,
    )
    return options.seed, setting, options.trace


def main(arguments: list[str]) -> int:
    """Run one world and say what became of it; 1: an invariant broke."""
    seed, setting, trace = parsed(arguments)
    outcome = simulate(seed, setting)
    if trace:
        say("\n".join(outcome.trace))
    if not outcome.ok:
        say(describe(outcome, 0 if trace else _TRACE_LINES))
        return 1
    say(
        f"seed {outcome.seed}: ok, {outcome.simulated_s:.1f} s simulated, {outcome.steps} steps, "
        f"{outcome.elections} elections, {outcome.committed} entries, {outcome.starts} starts"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
