# SPDX-License-Identifier: Apache-2.0
"""What a node's programs read: kubelet's, containerd's, CNI's and kube-proxy's configuration. Pure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from netaccel.cluster.plan import DNS4, DOMAIN, POD_NETWORK4, POD_NETWORK6
from netaccel.cluster.runtime import Runtime
from netaccel.lab.plan import NodePlan

KUBERNETES = Path("/etc/kubernetes")
KUBELET = KUBERNETES / "kubelet.yaml"
KUBELET_USER = KUBERNETES / "kubelet.conf"
KUBE_PROXY_USER = KUBERNETES / "kube-proxy.conf"
PKI = KUBERNETES / "pki"
CONTAINERD = Path("/etc/containerd/config.toml")
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
CNI = Path("/etc/cni/net.d")
KUBE_PROXY_HEALTH = 10256
MODES = {"kube-proxy-nftables": "nftables", "kube-proxy-iptables": "iptables"}


def kube_proxy_file(proxy: str) -> Path:
    """Where a node has the configuration of a kube-proxy by its name in `MODES`."""
    return KUBERNETES / f"{proxy}.yaml"


def kubelet(node: NodePlan) -> str:
    """KubeletConfiguration (kubelet.config.k8s.io/v1beta1). The disk is the machine's: it evicts nothing."""
    return _yaml(
        {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "::",
            "healthzBindAddress": "127.0.0.1",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(PKI / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(PKI / "kubelet.crt"),
            "tlsPrivateKeyFile": str(PKI / "kubelet.key"),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [DNS4],
            "clusterDomain": DOMAIN,
            "resolvConf": "",
            "evictionHard": {
                "memory.available": "50Mi",
                "nodefs.available": "0%",
                "nodefs.inodesFree": "0%",
                "imagefs.available": "0%",
                "imagefs.inodesFree": "0%",
            },
            "imageGCHighThresholdPercent": 100,
            "imageGCLowThresholdPercent": 99,
            # Images come by import: what nobody runs yet must stay.
            "imageMinimumGCAge": "24h",
            "nodeStatusUpdateFrequency": "5s",
            "syncFrequency": "10s",
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
        }
    )


def containerd(runtime: Runtime, pause: str) -> str:
    """Configuration of containerd, version 2; 1.6 and later read it.

    Without CAP_SYS_RESOURCE runc can't lower the OOM score: it keeps what it has then.
    """
    unused = ("snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.aufs", "snapshotter.v1.devmapper")
    disabled = json.dumps([f"io.containerd.{name}" for name in (*unused, "internal.v1.tracing")])
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = {disabled}
[grpc]
  address = "{CONTAINERD_SOCKET}"
[{cri}]
  sandbox_image = "{pause}"
  disable_apparmor = true
  disable_tcp_service = true
  restrict_oom_score_adj = true
[{cri}.cni]
  bin_dir = "{runtime.plugins}"
  conf_dir = "{CNI}"
[{cri}.containerd]
  snapshotter = "overlayfs"
  default_runtime_name = "runc"
[{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
  BinaryName = "{runtime.runc}"
  SystemdCgroup = false
"""


def cni(node: NodePlan) -> str:
    """CNI's bridge, host-local and portmap plugins; both families, pod addresses seen by everybody."""
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": False,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": node.pod_cidr4}], [{"subnet": node.pod_cidr6}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            "dataDir": "/var/lib/cni/networks",
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    return json.dumps({"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge, portmap]}, indent=1)


def kube_proxy(node: NodePlan, mode: str) -> str:
    """KubeProxyConfiguration; conntrack's limits are the machine's, no namespace may set them."""
    return _yaml(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": mode,
            "clientConnection": {"kubeconfig": str(KUBE_PROXY_USER)},
            "clusterCIDR": f"{POD_NETWORK4},{POD_NETWORK6}",
            "hostnameOverride": node.name,
            "conntrack": {"maxPerCore": 0, "min": 0},
            "healthzBindAddress": f"[::]:{KUBE_PROXY_HEALTH}",
            "metricsBindAddress": "127.0.0.1:10249",
        }
    )


def hosts(node: NodePlan) -> str:
    """A node's /etc/hosts."""
    return f"127.0.0.1 localhost\n::1 localhost\n{node.address4} {node.name}\n{node.address6} {node.name}\n"


def _yaml(document: dict[str, Any]) -> str:
    found: str = yaml.safe_dump(document, sort_keys=False)
    return found
