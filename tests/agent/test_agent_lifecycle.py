# SPDX-License-Identifier: Apache-2.0
"""An agent's life on a node: start, refusal of a second one, death, return, detach."""

from __future__ import annotations

import json
import os
import signal
from contextlib import ExitStack

import pytest
from ground import PATIENCE, Node

from netaccel.datapath import libbpf, netlink
from netaccel.datapath.attach import link_info
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.bpfobject import OBJECTS, BpfObject

pytestmark = pytest.mark.root


def links(node: Node) -> dict[str, int]:
    """Ids of the node's pinned links by name."""
    found = {}
    for pin in (node.pins / "links").iterdir():
        fd = libbpf.obj_get(str(pin))
        try:
            found[pin.name] = link_info(fd).id
        finally:
            os.close(fd)
    return found


def maps(node: Node) -> dict[str, int]:
    """Ids of the node's pinned maps by name."""
    found = {}
    for pin in (node.pins / "maps").iterdir():
        with KernelMap.open_pinned(pin) as opened:
            found[pin.name] = opened.info.id
    return found


def test_an_agent_takes_every_hook_of_its_node(node: Node) -> None:
    node.serve()
    hooks = node.hooks()
    assert hooks["xdp", "eth0"]["mode"] == "native"
    assert {hooks["tc ingress", "eth0"]["mode"], hooks["tc egress", "eth0"]["mode"]} <= {"tcx", "clsact"}
    assert hooks["cgroup", str(node.cgroup)]["mode"] == "link"
    status = node.netaccel("status")
    assert (status.returncode, status.stderr) == (0, "")


def test_a_second_agent_is_refused_and_told_the_pid_of_the_first(node: Node) -> None:
    first = node.serve()
    second = node.netaccel("agent")
    assert second.returncode == 1
    assert second.stderr == (
        f"netaccel: an agent (pid {first.pid}) already serves {node.pins}:"
        " stop it first, or give this one a --bpffs of its own\n"
    )
    assert node.status() is not None, "the first one goes on"


def test_a_clean_stop_keeps_the_datapath(node: Node) -> None:
    agent = node.serve()
    before = links(node)
    assert node.stop(agent) == 0
    assert links(node) == before
    status = node.netaccel("status")
    assert status.returncode == 3
    assert "no agent is running; the pinned datapath goes on" in status.stdout


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_the_next_agent_adopts_what_the_last_one_left(node: Node, number: signal.Signals) -> None:
    node.stop(node.serve(), number)
    before = links(node), maps(node)
    node.serve()
    assert (links(node), maps(node)) == before, "neither link nor map was made anew"
    assert (node.status() or {})["warnings"] == []


def programs(node: Node) -> dict[str, int]:
    """Ids of the programs on the node's links by name."""
    with ExitStack() as stack:
        found = {}
        for pin in (node.pins / "links").iterdir():
            fd = libbpf.obj_get(str(pin))
            stack.callback(os.close, fd)
            found[pin.name] = link_info(fd).program
        return found


def test_programs_are_verified_again_only_where_something_changed(node: Node) -> None:
    node.stop(node.serve())
    before, attached = programs(node), links(node)
    node.stop(node.serve())
    assert programs(node) == before, "the same programs are still there"
    node.serve(snat_ports="20000-20099")
    after = programs(node)
    assert not set(after.values()) & set(before.values()), "other constants, other programs"
    assert links(node) == attached, "in their place, so that no packet finds a hook empty"


def test_detach_leaves_nothing(node: Node) -> None:
    with netlink.inside_namespace(node.name):
        reserved = netlink.sysctl("net.ipv4.ip_local_reserved_ports")
    agent = node.serve(snat_ports="40000-40099")
    with netlink.inside_namespace(node.name):
        assert netlink.sysctl("net.ipv4.ip_local_reserved_ports") == "40000-40099"
    node.stop(agent)
    ids = set(links(node).values())
    assert ids
    assert list(node.state.glob("edges/node-1.db"))
    done = node.netaccel("detach", "-o", "json")
    assert done.returncode == 0
    assert {"link xdp-eth0", "reserved ports 40000-40099"} <= set(json.loads(done.stdout)["removed"])
    assert not node.pins.exists()
    assert not node.state.exists()
    node.until(lambda: not ids & set(libbpf.ids("link")))  # the kernel frees them a moment later
    with netlink.inside_namespace(node.name):
        assert netlink.sysctl("net.ipv4.ip_local_reserved_ports") == reserved


def test_detach_refuses_while_an_agent_serves_unless_it_may_stop_it(node: Node) -> None:
    agent = node.serve()
    refused = node.netaccel("detach")
    assert refused.returncode == 1
    assert f"an agent (pid {agent.pid}) serves {node.pins}" in refused.stderr
    assert "--stop-agent" in refused.stderr
    assert node.netaccel("detach", "--stop-agent").returncode == 0
    assert agent.wait(PATIENCE) == 0
    assert not node.pins.exists()


def test_a_busy_xdp_hook_leaves_the_node_to_tc_and_is_told(node: Node) -> None:
    with netlink.inside_namespace(node.name):
        index = netlink.device("eth0").ifindex
        with BpfObject(OBJECTS / "xdp_pass.o") as other:
            other.load()
            held = libbpf.link_create(other.program("xdp_pass").fd, index, 37, 1 << 2)
    node.serve()
    hooks = node.hooks()
    assert hooks["xdp", "eth0"]["mode"] == "failed"
    assert "held by program xdp_pass" in hooks["xdp", "eth0"]["note"]
    assert hooks["tc ingress", "eth0"]["mode"] != "failed"
    status = node.netaccel("status")
    assert status.returncode == 3
    assert "warning: xdp_uplink can't be attached to eth0" in status.stdout
    with BpfObject(OBJECTS / "xdp_pass.o"):
        libbpf.link_detach(held)


def test_xdp_can_be_turned_off(node: Node) -> None:
    node.stop(node.serve())
    assert "xdp-eth0" in links(node)
    node.serve(xdp="off")
    assert "xdp-eth0" not in links(node)
    assert node.hooks()["xdp", "eth0"]["mode"] == "off"
    assert node.netaccel("status").returncode == 0, "as asked is well"


def test_pod_devices_are_taken_as_they_come_and_let_go_as_they_leave(node: Node) -> None:
    agent = node.serve()
    with netlink.inside_namespace(node.name):
        netlink.add_veth("veth1", "veth2", node.outside)
    node.until(lambda: {("tc ingress", "veth1"), ("tc egress", "veth1")} <= node.hooks().keys(), agent)
    with netlink.inside_namespace(node.name):
        netlink.delete_device("veth1")
    node.until(lambda: not any(where == "veth1" for _, where in node.hooks()), agent)
    node.until(lambda: not any("veth1" in path.name for path in node.pins.rglob("*")), agent)


def pod(name: str, address: str, **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": "node-1", "containers": [{"name": "c", "image": "i"}], **spec},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    }


def test_pods_are_found_and_those_that_are_not_are_told(node: Node) -> None:
    agent = node.serve()
    node.put(
        "pods.yaml",
        pod("web", "10.244.1.5"),
        pod("lost", "10.93.1.6"),  # other namespaces are looked at too: no other test has it
        pod("proxy", "10.77.0.1", hostNetwork=True),
    )
    with netlink.inside_namespace(node.name):
        netlink.add_veth("veth1", "veth2", node.outside)
        netlink.set_up("veth1")
        netlink.add_route("10.244.1.5/32", name="veth1")
    told = {
        "devices": 1,
        "host_network": ["shop/proxy"],
        "not_enforceable": {"shop/lost": "no device leads to 10.93.1.6"},
    }
    node.until(lambda: (node.status() or {})["pods"] == told, agent)
    node.until(lambda: (node.status() or {})["policy"]["enforced"] == 1, agent)
    done = node.netaccel("status")
    assert "pod shop/lost: no policy is enforced: no device leads to 10.93.1.6" in done.stdout
    assert "1 pod on the host's network: policies don't reach them" in done.stdout
    assert "policy: on, 1 pods have theirs" in done.stdout
    with netlink.inside_namespace(node.name):
        netlink.delete_device("veth1")
    node.until(lambda: (node.status() or {})["pods"]["devices"] == 0, agent)


def test_an_uplink_that_comes_late_is_taken(node: Node) -> None:
    agent = node.serve(uplinks="eth0,eth9")
    found = node.status()
    assert found is not None
    assert found["warnings"] == ["uplink eth9: no such device; it is taken when it appears"]
    with netlink.inside_namespace(node.name):
        netlink.add_veth("eth9", "eth9", node.outside)
    node.until(lambda: "tcx-ingress-eth9" in links(node), agent)
    node.until(lambda: (node.status() or {})["warnings"] == [], agent)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"manifests": "/nonexistent"}, "manifests /nonexistent: No such file or directory"),
        ({"http": "192.0.2.1:80"}, "--http 192.0.2.1:80: Cannot assign requested address"),
        ({"bpffs": "/tmp"}, "bpffs /tmp: not a bpf file system: mount -t bpf bpf /tmp"),
        ({"cgroup": "/tmp"}, "cgroup /tmp: not cgroup v2"),
        ({"map_sizes": "flowz=5"}, "mapSizes flowz: no such map; known are"),
    ],
    ids=str,
)
def test_what_can_not_be_served_is_one_line(node: Node, settings: dict[str, str], told: str) -> None:
    done = node.netaccel("agent", **settings)
    assert done.returncode == 1
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
