"""When a rule counts as needed: without it an invariant breaks, in a run that is well with it.

An error that the switched-off path raises by itself (a missing key, say) shows nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

from lab.simulate import describe

from leitwolf.core.rules import ALL_RULES, Rules
from leitwolf.model.errors import LeitwolfError
from leitwolf.sim.checks import Violation
from leitwolf.sim.scenario import Setting, simulate

SEEDS_MAX = 200

BROKEN = re.compile(r"[A-Z]\d+: |InvariantError: ")
"""How a broken invariant is told: by its name, or by a check of the core."""


def broken(scene: Callable[[int, Rules], object], seed: int, rules: Rules) -> str:
    """Return what broke in a directed run, '' if nothing did."""
    try:
        scene(seed, rules)
    except Violation as violation:
        return str(violation)
    except LeitwolfError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def missed(rule: str, run: Callable[[int, Rules], str], seeds: Iterable[int]) -> str:
    """Return why a rule does not count as needed, '' if it does.

    Args:
        rule: to be switched off.
        run: returns what broke in the run of a seed, '' if nothing did.
        seeds: tried in order.
    """
    others: set[str] = set()
    for seed in seeds:
        told = run(seed, Rules.without(rule))
        if not BROKEN.match(told):
            others |= {told} - {""}
            continue
        control = run(seed, ALL_RULES)
        return f"seed {seed} breaks with all rules, too: {control}" if control else ""
    return f"nothing breaks without {rule}" + "".join(f"; not counted: {text}" for text in others)


def by_chance(setting: Setting) -> Callable[[int, Rules], str]:
    """Return random runs of a setting, for :func:`missed`."""

    def run(seed: int, rules: Rules) -> str:
        outcome = simulate(seed, replace(setting, without=rules.off))
        print(f"seed {seed} without {sorted(rules.off)}: {outcome.violation or 'ok'}")
        if not outcome.ok and not rules.off:
            print(describe(outcome))
        return outcome.violation

    return run
