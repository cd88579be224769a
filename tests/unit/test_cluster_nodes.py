# SPDX-License-Identifier: Apache-2.0
"""A cluster's nodes, as far as they are plans and files."""

from __future__ import annotations

import ipaddress
import json
import os
import tarfile
from pathlib import Path

import pytest
import yaml

from netaccel.cluster import dns, groups, images, install, node, settings
from netaccel.cluster.images import Image
from netaccel.cluster.init import Boot, hand_down, surplus
from netaccel.cluster.plan import DNS4, DNS6, make_plan
from netaccel.cluster.runtime import Runtime
from netaccel.cluster.state import State
from netaccel.errors import ConfigError, LabError
from netaccel.lab.plan import SERVICE_CIDR4, SERVICE_CIDR6

HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs ro,nosuid,nodev,noexec,mode=755 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,nosuid,nodev,noexec,relatime 0 0
cgroup /sys/fs/cgroup/systemd cgroup rw,nosuid,relatime,xattr,name=systemd 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,nosuid,nodev,noexec,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,clone_children,cpuset 0 0
cgroup /mnt/again cgroup rw,relatime,cpuset 0 0
"""
UNIFIED = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0\n"


def test_addresses_of_nodes_and_pods_never_meet() -> None:
    plan = make_plan("x", 32)
    networks = [ipaddress.ip_network(n) for item in plan.nodes for n in (item.pod_cidr4, item.pod_cidr6)]
    networks += [ipaddress.ip_network(n) for n in (SERVICE_CIDR4, SERVICE_CIDR6)]
    for index, one in enumerate(networks):
        assert not any(one.overlaps(o) for o in networks[index + 1 :] if o.version == one.version)
    single = [address for item in plan.nodes for address in (item.address4, item.address6)]
    assert len(set(single)) == 64
    assert not any(ipaddress.ip_address(a) in n for a in single for n in networks)


def test_the_address_of_dns_is_a_services() -> None:
    assert ipaddress.ip_address(DNS4) in ipaddress.ip_network(SERVICE_CIDR4)
    assert ipaddress.ip_address(DNS6) in ipaddress.ip_network(SERVICE_CIDR6)
    service = list(yaml.safe_load_all(dns.manifest()))[-1]
    assert service["spec"]["clusterIPs"] == [DNS4, DNS6]
    assert f"- {DNS4}" in settings.kubelet(make_plan("x").nodes[0])
    assert "$" not in dns.manifest().partition("apiVersion")[2]


@pytest.mark.parametrize(
    ("name", "nodes"), [("X", 2), ("", 2), ("a-b", 2), ("a" * 21, 2), ("x", 0), ("x", 33)]
)
def test_a_plan_that_cannot_be_is_refused(name: str, nodes: int) -> None:
    with pytest.raises(ConfigError, match="--n"):
        make_plan(name, nodes)


def test_a_node_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(LabError, match="has no node-9; its nodes: node-1, node-2"):
        make_plan("x").node("node-9")


def test_hierarchies_of_a_hybrid_machine() -> None:
    found = groups.parse_hierarchies(HYBRID)
    assert [(str(item.path), item.options) for item in found] == [
        ("/sys/fs/cgroup/systemd", "none,name=systemd"),
        ("/sys/fs/cgroup/cpu,cpuacct", "cpu,cpuacct"),
        ("/sys/fs/cgroup/cpuset", "cpuset"),
    ]


def test_a_unified_machine_has_no_hierarchies() -> None:
    assert groups.parse_hierarchies(UNIFIED) == []


def test_on_a_unified_machine_a_node_leaves_its_root_after_it_became_the_root() -> None:
    which = make_plan("x").nodes[0]
    group = Path("/sys/fs/cgroup/netaccel-cluster/x/node-1")
    words = node.launch(which, [group], group / "init", ["init"])
    joined, unshared, moved = (
        words.index(str(group)),
        words.index("--cgroup"),
        words.index(str(group / "init")),
    )
    assert joined < unshared < moved < words.index("--pid")
    assert str(group / "init") not in node.launch(which, [group], None, ["init"])


def test_controllers_that_containers_need_are_handed_down(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma misc\n")
    written: list[str] = []

    class Group(type(tmp_path)):  # type: ignore[misc]  # each write is a request of its own
        def write_text(self, data: str, *_: object, **__: object) -> int:
            if data == "+cpu":
                raise OSError(22, "refused")
            written.append(data)
            return len(data)

    hand_down(Group(tmp_path))
    assert written == ["+cpuset", "+io", "+memory", "+pids"]


def test_what_a_node_is_told_arrives() -> None:
    boot = Boot("n", "/d", [("/c", "cpu")], {"kubelet": ["k"]}, "/s", ["ctr"], ["/i"], ("172.30.0.1", 6443))
    told = Boot(**json.loads(boot.text()))
    assert told.hierarchies == [["/c", "cpu"]]
    assert told.services == {"kubelet": ["k"]}


MOUNTINFO = """\
1 0 8:1 / / rw shared:1 - ext4 /dev/vda rw
2 1 8:2 / /var rw shared:2 - ext4 /dev/vdb rw
3 2 8:3 / /var/lib/other\\040one rw - overlay overlay rw
4 1 0:5 / /sys rw - sysfs sysfs rw
5 4 0:6 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw
6 1 0:7 / /run rw - tmpfs tmpfs rw
7 6 0:8 net:[1] /run/netns/a rw - nsfs nsfs rw
8 1 0:9 / /tmp/test/bpf rw - bpf bpf rw
9 1 0:10 / /dev rw - devtmpfs devtmpfs rw
10 1 0:11 / /home rw - ext4 /dev/vdc rw
"""


def test_a_node_holds_nothing_of_the_machine_that_others_unmount() -> None:
    assert surplus(MOUNTINFO, "/var/lib/netaccel/cluster/x/node-1") == [
        "/tmp/test/bpf",
        "/run/netns/a",
        "/sys/fs/cgroup",
        "/sys",
        "/var/lib/other one",
    ]


def test_pods_have_both_families_and_no_masquerade() -> None:
    found = json.loads(settings.cni(make_plan("x").nodes[1]))
    bridge = found["plugins"][0]
    subnets = [item["subnet"] for (item,) in bridge["ipam"]["ranges"]]
    assert subnets == ["10.244.2.0/24", "fd00:10:244:2::/64"]
    assert bridge["ipMasq"] is False


def test_settings_of_kubelet_and_kube_proxy_are_documents() -> None:
    which = make_plan("x").nodes[0]
    assert yaml.safe_load(settings.kubelet(which))["kind"] == "KubeletConfiguration"
    for mode in settings.MODES.values():
        found = yaml.safe_load(settings.kube_proxy(which, mode))
        assert found["mode"] == mode
        assert found["conntrack"] == {"maxPerCore": 0, "min": 0}


def test_containerd_reads_its_settings() -> None:
    tomllib = pytest.importorskip("tomllib")
    found = tomllib.loads(settings.containerd(Runtime(Path("/r")), images.PAUSE))
    cri = found["plugins"]["io.containerd.grpc.v1.cri"]
    assert cri["sandbox_image"] == images.PAUSE
    assert cri["restrict_oom_score_adj"] is True
    assert cri["containerd"]["runtimes"]["runc"]["options"]["BinaryName"] == "/r/usr/sbin/runc"


def test_an_image_is_a_layer_its_configuration_and_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    image = Image(
        "local/thing:1", {"bin/a": b"content", "bin/b": "a"}, {"Entrypoint": ["/bin/a"]}, {"tmp": 0o1777}
    )
    (first,) = images.archives([image])
    assert images.archives([image]) == [first]
    with tarfile.open(first) as archive:
        (manifest,) = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
        config = json.load(archive.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        with tarfile.open(fileobj=archive.extractfile("layer.tar")) as layer:
            names = {entry.name: entry for entry in layer}
    assert manifest["RepoTags"] == ["local/thing:1"]
    assert config["config"] == {"Entrypoint": ["/bin/a"]}
    assert list(names) == ["bin", "tmp", "bin/a", "bin/b"]
    assert names["tmp"].mode == 0o1777
    assert names["bin/b"].linkname == "a"

    os.utime(first, (0, 0))
    changed = Image(image.name, {**image.files, "bin/a": b"other"}, image.config, image.folders)
    (second,) = images.archives([changed])
    assert second != first
    assert not first.exists()


def test_settings_of_netaccel_get_the_api_server_unless_they_name_one() -> None:
    def rendered(text: str) -> list[dict[str, object]]:
        return [{"kind": "ConfigMap", "metadata": {"name": "netaccel"}, "data": {"config.yaml": text}}]

    found = yaml.safe_load(install.config(rendered("kubeProxy: instead\napiServers: []\n")))
    assert found == {"kubeProxy": "instead", "apiServers": ["172.30.0.1:6443"]}
    kept = yaml.safe_load(install.config(rendered("apiServers: ['192.0.2.1:6443']\n")))
    assert kept == {"apiServers": ["192.0.2.1:6443"]}
    with pytest.raises(LabError, match="no ConfigMap netaccel"):
        install.config([])


def test_what_is_to_be_installed_is_looked_for_first(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no kustomization\.yaml there: give --manifests"):
        install.check_overlay(tmp_path)
    with pytest.raises(LabError, match=r"no such image: `make image`"):
        install.check_image(tmp_path / "image.tar")


def test_a_state_lays_out_its_plan() -> None:
    assert State("x", 3).plan() == make_plan("x", 3)
