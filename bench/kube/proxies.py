# SPDX-License-Identifier: Apache-2.0
"""The three proxies, as a node would run them; one at a time, each gone without a trace before the next."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.kube.ground import API_PORT, Ground
from netaccel.cluster import pki
from netaccel.cluster.process import Child, Program
from netaccel.lab import process
from netaccel.lab.plan import ROUTER4
from netaccel.lab.process import Place

NETACCEL, NFTABLES, IPTABLES = "netaccel", "kube-proxy nftables", "kube-proxy iptables"
PEERS = (NFTABLES, IPTABLES)
ALL = (NETACCEL, *PEERS)
ACCOUNT_SECONDS = 24 * 3600
_CLEARING = 300.0


class Way(NamedTuple):
    """How a proxy is run, and how what it made is cleared away."""

    program: Callable[[Ground], Program]
    clear: Callable[[Ground], None]


@contextmanager
def running(ground: Ground, name: str) -> Iterator[Child]:
    """A proxy, just started. What it says is in the ground's folder."""
    way = _WAYS[name]
    child = Child(way.program(ground))
    try:
        yield child
    finally:
        child.stop(grace=30.0)
        way.clear(ground)


def _netaccel(ground: Ground) -> Program:
    command = [sys.executable, "-m", "netaccel", "agent"]
    return Program(NETACCEL, command, _log(ground, NETACCEL), ground.proxy, extra=settings(ground))


def settings(ground: Ground) -> dict[str, str]:
    """The environment of an agent that stands in for kube-proxy."""
    return process.environment(
        {
            "KUBECONFIG": str(ground.control.kubeconfig_of_account("netaccel", "netaccel", ACCOUNT_SECONDS)),
            "NODE_NAME": ground.node.name,
            "NETACCEL_KUBE_PROXY": "instead",
            "NETACCEL_API_SERVERS": f"{ROUTER4}:{API_PORT}",
            "NETACCEL_CGROUP": str(ground.cgroup),
            "NETACCEL_BPFFS": str(ground.bpffs / ground.node.name),
            "NETACCEL_STATE": str(ground.folder / "state"),
            "NETACCEL_UPLINKS": "eth0",
            "NETACCEL_POD_DEVICES": "veth*",
        }
    )


def _detach(ground: Ground) -> None:
    place = Place(ground.proxy.cgroup, ground.node.namespace)
    command = [sys.executable, "-m", "netaccel", "detach"]
    done = process.run(place, command, timeout=_CLEARING, extra=settings(ground))
    if done.returncode:
        raise RuntimeError(f"netaccel detach: {done.stderr}")


def _kube_proxy(mode: str, name: str) -> Callable[[Ground], Program]:
    def program(ground: Ground) -> Program:
        file = ground.folder / f"kube-proxy-{mode}.json"
        file.write_text(json.dumps(_configuration(ground, mode)), encoding="utf-8")
        command = [str(ground.programs.path("kube-proxy")), f"--config={file}", "--v=2"]
        return Program(name, command, _log(ground, name), ground.proxy)

    return program


def _configuration(ground: Ground, mode: str) -> dict[str, object]:
    """kube-proxy's defaults (kubeproxy.config.k8s.io/v1alpha1), but what a namespace can't have."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": mode,
        "clientConnection": {"kubeconfig": str(ground.control.kubeconfig(pki.KUBE_PROXY))},
        "clusterCIDR": "10.244.0.0/16",
        "hostnameOverride": ground.node.name,
        "conntrack": {"maxPerCore": 0, "min": 0},
    }


def _flush(ground: Ground) -> None:
    """Both modes live in nftables (iptables by its compatibility layer)."""
    done = process.run(ground.proxy, ["nft", "flush", "ruleset"], timeout=_CLEARING)
    if done.returncode:
        raise RuntimeError(f"nft flush ruleset: {done.stderr}")


def _log(ground: Ground, name: str) -> Path:
    folder = Path("build/bench/logs")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.absolute() / f"{name.replace(' ', '-')}.log"


_WAYS = {
    NETACCEL: Way(_netaccel, _detach),
    NFTABLES: Way(_kube_proxy("nftables", NFTABLES), _flush),
    IPTABLES: Way(_kube_proxy("iptables", IPTABLES), _flush),
}
