# SPDX-License-Identifier: Apache-2.0
"""``python -m bench [PART …]``: run the parts, print tables, append JSON lines to build/bench.jsonl.

Exit status 1 if a budget was missed.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from bench import results

PARTS = {
    "packets": "XDP and TC, ns a packet, over a floor",
    "policypackets": "policy at a pod's device, ns a packet: known flows, and first packets by rules",
    "connect": "connect() through socket LB against direct",
    "control": "cold start, one endpoint's change, memory",
    "start": "agent start to first program and to ready, idle CPU",
    "policy": "policies: compile and write, one change, memory",
    "pods": "from a pod's birth to programs at its device and its policy in force",
    "nodeport": "packets and requests a second through a NodePort, against nftables",
    "flows": "events of flows: what reading them costs, none unaccounted for",
    "edges": "recorded edges: what recording and previewing costs",
    "accel": "same-node acceleration: tiers 0 and 1 beside plain veth, unix socket, loopback",
    "accelprograms": "the same, programs that people run: redis, nginx, TLS, PostgreSQL, gRPC",
    "explain": "answers of explain in batch, by model and by kernel",
    "apiserver": "the agent against a real API server: start, one change, memory, idle CPU",
    "watchers": "50 agents' watches on one API server",
    "cluster": "netaccel beside kube-proxy of the same version, in one cluster (half an hour)",
}


def main(wanted: list[str]) -> int:
    unknown = [p for p in wanted if p not in PARTS]
    if unknown or os.geteuid() != 0:
        print(
            f"bench: no such part: {', '.join(unknown)}" if unknown else "bench: run as root", file=sys.stderr
        )
        print("parts:", *(f"  {name:10} {what}" for name, what in PARTS.items()), sep="\n", file=sys.stderr)
        return 2
    missed = 0
    for part in wanted or PARTS:
        module = importlib.import_module(f"bench.{part}")
        found = module.run()
        getattr(module, "show", results.show)(PARTS[part], found)
        results.write(found, Path("build/bench.jsonl"))
        missed += sum(r.ok is False for r in found)
        print(flush=True)
    print(f"bench: {missed} budgets missed" if missed else "bench: every budget met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
