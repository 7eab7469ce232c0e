"""Policy: what the leader proposes, what commands mean, what a node's host is told, and why."""

from __future__ import annotations

from leitwolf.core.policy.codes import CAUSES, NOT_CHOSEN, REFUSALS
from leitwolf.core.policy.commands import Judged, changed_meanwhile, judge
from leitwolf.core.policy.commands_cluster import blind_nodes, transfer_refusal, unfit_joiner
from leitwolf.core.policy.health import Survival, survives
from leitwolf.core.policy.placement import Candidates, candidates
from leitwolf.core.policy.plan import Plan, Planned, plan
from leitwolf.core.policy.runner import Runner, differences, orders
from leitwolf.core.policy.status import group_status
from leitwolf.core.policy.why import Explanation, why

__all__ = [
    "CAUSES",
    "NOT_CHOSEN",
    "REFUSALS",
    "Candidates",
    "Explanation",
    "Judged",
    "Plan",
    "Planned",
    "Runner",
    "Survival",
    "blind_nodes",
    "candidates",
    "changed_meanwhile",
    "differences",
    "group_status",
    "judge",
    "orders",
    "plan",
    "survives",
    "transfer_refusal",
    "unfit_joiner",
    "why",
]
