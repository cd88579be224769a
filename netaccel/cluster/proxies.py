# SPDX-License-Identifier: Apache-2.0
"""kube-proxy as a process of a node: started and stopped at any time, with or without its rules staying."""

from __future__ import annotations

from pathlib import Path

from netaccel.cluster import groups, node, settings
from netaccel.cluster.node import Programs
from netaccel.cluster.plan import Plan
from netaccel.errors import LabError
from netaccel.lab.plan import NodePlan

NONE = "none"
NETACCEL = "netaccel"
CHOICES = (NETACCEL, *settings.MODES, NONE)
_NAME = "kube-proxy"


def running(plan: Plan, which: NodePlan) -> str:
    """Which kube-proxy runs in a node by its name in `settings.MODES`; "none" where none does."""
    for pid in _pids(plan, which):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for word in words:
            if word.startswith("--config="):
                return Path(word).stem
    return NONE


def start(plan: Plan, which: NodePlan, programs: Programs, proxy: str, *, keep_rules: bool = False) -> None:
    """Start a kube-proxy; one of the other mode is stopped first. Raises LabError."""
    before = running(plan, which)
    if before == proxy:
        return
    if before != NONE:
        stop(plan, which, programs, keep_rules=keep_rules)
    command = node.command(plan, which, [str(programs.binaries.path(_NAME)), _config(proxy), "--v=2"])
    log = plan.node_disk(which) / "var/log" / f"{_NAME}.log"
    node.start_apart(command, log, node.environment(which, programs))


def stop(plan: Plan, which: NodePlan, programs: Programs, *, keep_rules: bool = False) -> None:
    """Stop what runs; unless ``keep_rules``, remove what it wrote into the kernel. Raises LabError."""
    before = running(plan, which)
    groups.end(groups.node(plan.name, which.name), _NAME)
    if not keep_rules:
        proxy = before if before != NONE else next(iter(settings.MODES))
        words = [str(programs.binaries.path(_NAME)), _config(proxy), "--cleanup"]
        node.run(plan, which, words, env=node.environment(which, programs))


def check(proxy: str) -> str:
    """Return the name, or raise LabError."""
    if proxy not in CHOICES:
        raise LabError(f"proxy {proxy!r}: give one of {', '.join(CHOICES)}")
    return proxy


def _config(proxy: str) -> str:
    return f"--config={settings.kube_proxy_file(proxy)}"


def _pids(plan: Plan, which: NodePlan) -> list[int]:
    return groups.named(groups.node(plan.name, which.name), _NAME)
