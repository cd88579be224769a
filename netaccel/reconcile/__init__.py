# SPDX-License-Identifier: Apache-2.0
"""Keeps the maps what the objects ask for: coalesce → compile → diff → write → status, retry and repair.

``engine`` one pass, without clock or asyncio · ``plan`` what a pass will write · ``dump`` reads the maps ·
``mode`` whether new flows are taken · ``status`` what became of each object, counters · ``policies`` the
same as ``engine`` for the maps of policy · ``collector`` Python's, kept quiet meanwhile · ``loop`` events in,
passes, retries, timers.

A pass writes what changed since the last one. The first pass, one that follows a failed write, and one now
and then on a timer read the maps first and take what they find for the state that is left behind.
"""

from netaccel.reconcile.engine import Engine
from netaccel.reconcile.loop import Reconciler
from netaccel.reconcile.mode import Mode
from netaccel.reconcile.policies import PolicyEngine, PolicyReport
from netaccel.reconcile.status import Condition, Report, State, Stats

__all__ = [
    "Condition",
    "Engine",
    "Mode",
    "PolicyEngine",
    "PolicyReport",
    "Reconciler",
    "Report",
    "State",
    "Stats",
]
