# SPDX-License-Identifier: Apache-2.0
"""kube-proxy as a process of a node: started and stopped at any time, with or without its rules staying."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from netaccel.cluster import groups, node
from netaccel.cluster.node import Programs
from netaccel.cluster.plan import Plan
from netaccel.cluster.settings import MODES, kube_proxy_file
from netaccel.errors import LabError
from netaccel.lab.plan import NodePlan

NONE = "none"
NETACCEL = "netaccel"
CHOICES = (NETACCEL, *MODES, NONE)
_NAME = "kube-proxy"
_START_SECONDS = 10.0
_POLL = 0.05


def running(plan: Plan, which: NodePlan) -> str:
    """Which kube-proxy runs in a node by its name in `MODES`; "none" where none does."""
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
    if MODES[proxy] == "nftables" and shutil.which("nft") is None:
        raise LabError(f"{proxy} works by the program nft: apt-get install nftables")
    before = running(plan, which)
    if before == proxy:
        return
    if before != NONE:
        stop(plan, which, programs, keep_rules=keep_rules)
    command = node.command(plan, which, [str(programs.binaries.path(_NAME)), _config(proxy), "--v=2"])
    log = plan.node_disk(which) / "var/log" / f"{_NAME}.log"
    node.start_apart(command, log, node.environment(which, programs))
    deadline = time.monotonic() + _START_SECONDS
    while running(plan, which) != proxy:
        if time.monotonic() > deadline:
            raise LabError(f"{which.name}: {proxy} ended, or never began: see {log}")
        time.sleep(_POLL)


def stop(plan: Plan, which: NodePlan, programs: Programs, *, keep_rules: bool = False) -> None:
    """Stop what runs; unless ``keep_rules``, remove what it wrote into the kernel. Raises LabError."""
    before = running(plan, which)
    groups.end(groups.node(plan.name, which.name), _NAME)
    if not keep_rules:
        proxy = before if before != NONE else next(iter(MODES))
        words = [str(programs.binaries.path(_NAME)), _config(proxy), "--cleanup"]
        node.run(plan, which, words, env=node.environment(which, programs))


def check(proxy: str) -> str:
    """Return the name, or raise LabError."""
    if proxy not in CHOICES:
        raise LabError(f"proxy {proxy!r}: give one of {', '.join(CHOICES)}")
    return proxy


def _config(proxy: str) -> str:
    return f"--config={kube_proxy_file(proxy)}"


def _pids(plan: Plan, which: NodePlan) -> list[int]:
    return groups.named(groups.node(plan.name, which.name), _NAME)
