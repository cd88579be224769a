# SPDX-License-Identifier: Apache-2.0
"""Runs in a node and prints what netaccel could have left there; paths of other clusters don't count."""

from __future__ import annotations

import json
from pathlib import Path

from netaccel.datapath import libbpf, netlink, rtnetlink
from netaccel.datapath.attach import AttachType
from netaccel.datapath.mounts import OWN, read_mounts


def programs(ifindex: int) -> dict[str, int]:
    ways = {"ingress": AttachType.TCX_INGRESS, "egress": AttachType.TCX_EGRESS}
    found = {way: len(libbpf.prog_query(ifindex, kind)) for way, kind in ways.items()}
    return found | {"xdp": int(libbpf.xdp_query(ifindex) != 0)}


def main() -> dict[str, object]:
    return {
        "programs": {
            d.name: programs(d.ifindex) for d in rtnetlink.devices() if not d.name.startswith("veth")
        },
        "mounts": sorted(m.path.name for m in read_mounts() if m.path.parent == OWN),
        "folder": OWN.exists(),
        "pins": sorted(p.name for p in Path("/sys/fs/bpf").iterdir() if not p.name.endswith(".debug")),
        "reserved": netlink.sysctl("net.ipv4.ip_local_reserved_ports"),
    }


if __name__ == "__main__":
    print(json.dumps(main()))
