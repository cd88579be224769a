# SPDX-License-Identifier: Apache-2.0
"""A cluster's control plane: in its namespace, on the usual ports; it outlives the command that starts it."""

from __future__ import annotations

from collections.abc import Sequence

from netaccel.cluster import groups
from netaccel.cluster.arguments import ALL_CONTROLLERS, Options, Ports
from netaccel.cluster.binaries import Binaries
from netaccel.cluster.controlplane import ControlPlane
from netaccel.cluster.plan import API_PORT, CONTROL_PLANE, POD_NETWORK4, POD_NETWORK6, Plan
from netaccel.cluster.process import Child
from netaccel.lab.plan import ROUTER4, ROUTER6, SERVICE_CIDR4, SERVICE_CIDR6
from netaccel.lab.process import Place

API_SERVER = "kube-apiserver"
_MANAGERS = ("kube-controller-manager", "kube-scheduler")
PROGRAMS = ("etcd", API_SERVER, *_MANAGERS)
_MORE = {"kube-controller-manager": ("--kube-api-qps=500", "--kube-api-burst=1000")}
"""Nobody else needs this API server: at its usual 20 requests a second the manager takes 5 s to start."""
_started: list[Child] = []
"""What this process started. It outlives the process, which must not complain of children that it forgot."""
_PORTS = Ports(api=API_PORT, etcd=2379, etcd_peer=2380, controller_manager=10257, scheduler=10259)


class Control(ControlPlane):
    """A control plane whose programs any process may stop and start: they are found by cgroup and name."""

    def __init__(self, plan: Plan, binaries: Binaries) -> None:
        place = Place(groups.outside(plan.name, CONTROL_PLANE), plan.control_plane)
        options = Options(
            addresses=(ROUTER4, ROUTER6),
            ports=_PORTS,
            advertised=ROUTER4,
            service_networks=(SERVICE_CIDR4, SERVICE_CIDR6),
            pod_networks=(POD_NETWORK4, POD_NETWORK6),
            controllers=ALL_CONTROLLERS,
            scheduler=True,
            place=place,
            bound=False,
        )
        super().__init__(plan.control_plane_disk, binaries, options)
        self._group = place.cgroup

    def start_api_server(self) -> None:
        """Start the API server; managers that outlived the last one end before, and begin anew after.

        Elsewhere they end when they can't renew their Lease. One that went on would hold against nodes that
        they didn't renew theirs meanwhile, and take all pods out of service (node-monitor-grace-period).
        """
        outlived = any(groups.named(self._group, name) for name in _MANAGERS)
        for name in _MANAGERS:
            groups.end(self._group, name, grace=0.0)
        super().start_api_server()
        if outlived:
            self._start_managers()

    def running(self) -> dict[str, int]:
        """Process ids by name of what runs."""
        found = {name: groups.named(self._group, name) for name in PROGRAMS}
        return {name: pids[0] for name, pids in found.items() if pids}

    def stop_api_server(self) -> None:
        """Ask the API server to end and wait for that, whoever started it."""
        groups.end(self._group, API_SERVER)

    def kill_api_server(self) -> None:
        """End the API server at once, whoever started it."""
        groups.end(self._group, API_SERVER, grace=0.0)

    def _start(self, name: str, line: Sequence[str]) -> Child:
        started = super()._start(name, [*line, *_MORE.get(name, ())])
        _started.append(started)
        return started
