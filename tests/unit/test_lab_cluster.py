# SPDX-License-Identifier: Apache-2.0
"""What the lab plays of a cluster, without any kernel: defaults, endpoints, scheduler, manifests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from netaccel.errors import ConfigError, LabError
from netaccel.lab import cluster, documents
from netaccel.lab.allocate import Allocator, Given, families
from netaccel.lab.endpoints import PodView, Port, nodes_with_endpoints, slices
from netaccel.lab.plan import make_plan, pod_device, pod_label
from netaccel.lab.raw import Name
from netaccel.lab.server import content, digest, plain
from netaccel.lab.shell import require_root_and_tools

WEB = Name("default", "web")


def service(**spec: Any) -> dict[str, Any]:
    body = {"ports": [{"name": "http", "port": 80, "targetPort": "http"}], "selector": {"app": "web"}, **spec}
    return {"kind": "Service", "metadata": {"name": "web", "namespace": "default"}, "spec": body}


def fill(*services: dict[str, Any], given: dict[Name, Given] | None = None) -> list[dict[str, Any]]:
    named = {Name("default", f"web{i or ''}"): item for i, item in enumerate(services)}
    allocator = Allocator({} if given is None else given)
    return list(allocator.fill(named, lambda: Given("uid", "2026-01-01T00:00:00Z")).values())


def view(pod: str, **facts: Any) -> PodView:
    defaults: dict[str, Any] = {
        "name": Name("default", pod),
        "uid": pod,
        "labels": {"app": "web"},
        "addresses": ("10.244.1.2", "fd00:10:244:1::2"),
        "ports": (Port("http", "TCP", 8080),),
        "node": "node-1",
        "zone": "zone-a",
        "ready": True,
        "terminating": False,
    }
    return PodView(**{**defaults, **facts})


class TestAllocation:
    @pytest.mark.parametrize(
        ("spec", "expected"),
        [
            ({}, ["IPv4"]),
            ({"ipFamilies": ["IPv6"]}, ["IPv6"]),
            ({"ipFamilyPolicy": "RequireDualStack"}, ["IPv4", "IPv6"]),
            ({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}, ["IPv6", "IPv4"]),
            ({"clusterIP": "fd00:10:96::5"}, ["IPv6"]),
            ({"clusterIPs": ["10.96.0.5", "fd00:10:96::5"]}, ["IPv4", "IPv6"]),
        ],
    )
    def test_families(self, spec: dict[str, Any], expected: list[str]) -> None:
        assert families(service(**spec)) == expected

    def test_what_is_written_stays_and_the_rest_is_given(self) -> None:
        (filled,) = fill(service(clusterIP="10.96.0.5", ipFamilyPolicy="RequireDualStack"))
        assert filled["spec"]["clusterIPs"] == ["10.96.0.5", "fd00:10:96::100"]
        assert "nodePort" not in filled["spec"]["ports"][0]

    def test_nobody_is_given_what_another_has_written(self) -> None:
        written = service(type="NodePort", clusterIP="10.96.1.0", ports=[{"port": 80, "nodePort": 31000}])
        asking = service(type="NodePort")
        first, _ = fill(asking, written)
        assert first["spec"]["clusterIP"] == "10.96.1.1"
        assert first["spec"]["ports"][0]["nodePort"] == 31001

    def test_it_is_given_once_and_kept_until_the_service_goes(self) -> None:
        given: dict[Name, Given] = {}
        before = fill(service(type="LoadBalancer"), given=given)
        assert fill(service(type="LoadBalancer"), given=given) == before
        assert fill(given=given) == []
        assert given == {}

    def test_a_load_balancer_gets_addresses_and_a_health_check_under_a_local_policy(self) -> None:
        (filled,) = fill(service(type="LoadBalancer", externalTrafficPolicy="Local"))
        assert filled["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.100"}]
        ports = {filled["spec"]["healthCheckNodePort"], filled["spec"]["ports"][0]["nodePort"]}
        assert ports == {31000, 31001}

    def test_without_load_balancer_node_ports_none_is_given(self) -> None:
        (filled,) = fill(service(type="LoadBalancer", allocateLoadBalancerNodePorts=False))
        assert "nodePort" not in filled["spec"]["ports"][0]

    @pytest.mark.parametrize("spec", [{"clusterIP": "None"}, {"type": "ExternalName"}])
    def test_headless_and_external_names_get_no_address(self, spec: dict[str, Any]) -> None:
        (filled,) = fill(service(**spec))
        assert filled["spec"].get("clusterIPs") is None

    def test_who_goes_without_is_told_and_the_others_are_served(self) -> None:
        many = {Name("default", f"s{i:03}"): service(type="LoadBalancer") for i in range(160)}
        allocator = Allocator({})
        filled = allocator.fill(many, lambda: Given("uid", "2026-01-01T00:00:00Z"))
        assert len(filled) == 155
        assert set(allocator.problems) == {Name("default", f"s{i:03}") for i in range(155, 160)}
        assert "203.0.113.0/24" in allocator.problems[Name("default", "s159")]


class TestEndpoints:
    def test_a_named_port_is_resolved_for_each_pod(self) -> None:
        pods = [view("a"), view("b", addresses=("10.244.1.3",), ports=(Port("http", "TCP", 9090),))]
        found = slices({WEB: service()}, pods)
        assert [s["ports"][0]["port"] for s in found] == [8080, 9090]
        assert len({s["metadata"]["name"] for s in found}) == 2

    def test_a_pod_without_the_named_port_is_left_out(self) -> None:
        (only,) = slices({WEB: service()}, [view("a", ports=())])
        assert only["endpoints"] == []

    def test_a_number_needs_no_container_port(self) -> None:
        found = slices({WEB: service(ports=[{"port": 80}])}, [view("a", ports=())])
        assert found[0]["ports"] == [{"name": "", "protocol": "TCP", "port": 80}]

    @pytest.mark.parametrize(
        ("facts", "unready", "expected"),
        [
            ({}, False, (True, True, False)),
            ({"ready": False}, False, (False, False, False)),
            ({"terminating": True}, False, (False, True, True)),
            ({"ready": False, "terminating": True}, False, (False, False, True)),
            ({"ready": False}, True, (True, True, False)),
        ],
    )
    def test_conditions(
        self, facts: dict[str, Any], unready: bool, expected: tuple[bool, bool, bool]
    ) -> None:
        found = slices({WEB: service(publishNotReadyAddresses=unready)}, [view("a", **facts)])
        assert tuple(found[0]["endpoints"][0]["conditions"].values()) == expected

    def test_each_family_has_its_own_slices_of_a_hundred(self) -> None:
        pods = [view(f"p{i}", addresses=(f"10.244.1.{i}", f"fd00::{i:x}")) for i in range(150)]
        found = slices({WEB: service(ipFamilyPolicy="RequireDualStack")}, pods)
        assert [(s["addressType"], len(s["endpoints"])) for s in found] == [
            ("IPv4", 100),
            ("IPv4", 50),
            ("IPv6", 100),
            ("IPv6", 50),
        ]

    def test_without_selector_or_with_other_labels_or_namespace_there_is_none(self) -> None:
        other = view("a", name=Name("elsewhere", "a"))
        assert slices({WEB: service(selector=None)}, [view("a")]) == []
        for pod in (other, view("a", labels={"app": "db"})):
            assert slices({WEB: service()}, [pod])[0]["endpoints"] == []

    def test_load_balancers_send_to_nodes_with_a_ready_endpoint(self) -> None:
        pods = [view("a"), view("b", node="node-2", ready=False), view("c", node="node-3", terminating=True)]
        assert nodes_with_endpoints(service(), pods) == {"node-1"}


class TestCluster:
    def test_pods_go_where_they_ask_or_where_fewest_are(self) -> None:
        plan = make_plan("x", 2)
        one, two = plan.nodes
        assert cluster.pick_node(plan, {"spec": {"nodeName": "node-2"}}, []) == two
        assert cluster.pick_node(plan, {"spec": {"nodeName": "node-9"}}, []) is None
        assert cluster.pick_node(plan, {}, []) == one
        assert cluster.pick_node(plan, {}, [one]) == two

    def test_what_people_write_of_a_node_stays(self) -> None:
        plan = make_plan("x", 1)
        written = {"metadata": {"name": "node-1", "labels": {cluster.ZONE: "here"}}}
        filled = cluster.fill_node(plan.nodes[0], written)
        assert cluster.zone_of(plan.nodes[0], {"node-1": filled}) == "here"
        assert filled["spec"]["podCIDRs"] == ["10.244.1.0/24", "fd00:10:244:1::/64"]

    def test_namespaces_in_use_exist(self) -> None:
        used = [service(), {"kind": "Pod", "metadata": {"name": "p", "namespace": "shop"}}]
        assert [n["metadata"]["name"] for n in cluster.missing_namespaces(used)] == ["default", "shop"]

    @pytest.mark.parametrize("name", ["", "Lab", "a-b", "a" * 21, "../x"])
    def test_names_of_labs_are_checked(self, name: str) -> None:
        with pytest.raises(ConfigError, match="--name"):
            make_plan(name)

    def test_devices_and_labels_of_pods_are_short_and_their_own(self) -> None:
        long = "p" * 250
        assert len(pod_device("default", long)) <= 15
        assert len(pod_label("n" * 63, long)) <= 200
        assert pod_device("a", "b") != pod_device("a", "c")
        assert pod_label("a-b", "c") != pod_label("a", "b-c")


class TestDocuments:
    def test_rendered_files_keep_names_and_order_and_what_they_do_not_know(self, tmp_path: Path) -> None:
        text = (
            b"kind: A\nmetadata: {name: a}\n---\nkind: List\nitems: [{kind: B, at: 2026-01-01T00:00:00Z}]\n"
        )
        file = documents.parse("x/y.yaml", text)
        written = documents.render(file, lambda item: {**item, "seen": True})
        again = documents.parse("x/y.yaml", written)
        assert again.documents == (
            {"kind": "A", "metadata": {"name": "a"}, "seen": True},
            {"kind": "List", "items": [{"kind": "B", "at": "2026-01-01T00:00:00Z", "seen": True}]},
        )
        documents.write_folder(tmp_path, {file.name: written})
        assert json.loads((tmp_path / "x/y.yaml").read_text().split("---\n")[0])["seen"]
        documents.write_folder(tmp_path, {})
        assert not (tmp_path / "x/y.yaml").exists()

    def test_what_is_no_yaml_is_copied_as_it_is(self) -> None:
        file = documents.parse("x.yaml", b"a: [")
        assert file.documents is None
        assert documents.render(file, lambda item: item) == b"a: ["

    def test_half_a_file_leaves_what_it_last_held(self) -> None:
        good, half = documents.parse("x.yaml", b"kind: Pod"), documents.parse("x.yaml", b"kind: [")
        assert documents.last_good({"x.yaml": half}, {"x.yaml": good}) == {"x.yaml": good}
        assert documents.last_good({}, {"x.yaml": good}) == {}

    def test_only_manifests_are_read_and_hidden_ones_are_not(self, tmp_path: Path) -> None:
        for name in ("a.yaml", "b.yml", "c.json", "d.txt", ".e.yaml", "sub/f.yaml", ".hidden/g.yaml"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text("{}")
        assert sorted(documents.read(tmp_path, {})) == ["a.yaml", "b.yml", "c.json", "sub/f.yaml"]


def test_downloads_differ_block_by_block() -> None:
    blocks = list(content(40000))
    assert sum(map(len, blocks)) == 40000
    assert len(set(blocks)) == len(blocks)
    assert digest(40000) != digest(40001)


@pytest.mark.parametrize(
    ("given", "expected"),
    [("::ffff:10.0.0.1", "10.0.0.1"), ("fe80::1%eth0", "fe80::1"), ("10.0.0.1", "10.0.0.1")],
)
def test_addresses_are_told_plainly(given: str, expected: str) -> None:
    assert plain(given) == expected


@pytest.mark.parametrize(
    ("user", "path", "expected"),
    [
        (1000, "/usr/sbin:/usr/bin:/sbin:/bin", "run it as root"),
        (0, "/nowhere", "missing: ip, nsenter; apt-get install iproute2 util-linux"),
    ],
)
def test_what_the_machine_lacks_is_told_in_one_line(
    user: int, path: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setenv("PATH", path)
    with pytest.raises(LabError, match=expected):
        require_root_and_tools()
