# SPDX-License-Identifier: Apache-2.0
"""The command lines of a control plane's programs. Pure: files and ports are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from netaccel.cluster.pki import Pair
from netaccel.lab.process import Place

LOOPBACK = "127.0.0.1"
ISSUER = "https://kubernetes.default.svc"
_DOCUMENTATION = "192.0.2.1"  # RFC 5737: an address that is nobody's
ALL_CONTROLLERS = ("*",)


@dataclass(frozen=True)
class Options:
    """What a control plane is like.

    ``addresses``: where the API server is reached; it listens on the one, or, where there are several, on all
    of the machine's. ``port``: 0 takes a free one. ``ports``: all of them, where nobody else can take
    one; None: free ones. ``names``: more that its certificate may be called. ``advertised``: the endpoint of
    the Service ``kubernetes``; "": it has none. ``controllers``: those of the controller manager by name,
    ``ALL_CONTROLLERS``, or none at all. ``arguments``: more of kube-apiserver's.
    ``place``, ``bound``: as `process.Program` has them.
    """

    addresses: tuple[str, ...] = (LOOPBACK,)
    port: int = 0
    ports: Ports | None = None
    names: tuple[str, ...] = ()
    advertised: str = ""
    service_networks: tuple[str, ...] = ("10.96.0.0/16", "fd00:10:96::/112")
    pod_networks: tuple[str, ...] = ()
    controllers: tuple[str, ...] = ()
    scheduler: bool = False
    audit: bool = False
    feature_gates: Mapping[str, bool] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    place: Place | None = None
    bound: bool = True


class Ports(NamedTuple):
    """TCP ports, all on loopback but the API server's."""

    api: int
    etcd: int
    etcd_peer: int
    controller_manager: int
    scheduler: int


@dataclass(frozen=True)
class Keys:
    """The files that the programs read."""

    ca: Path
    ca_key: Path
    token_key: Path
    token_public_key: Path
    serving: Pair
    kubelet_client: Pair


def etcd(data: Path, ports: Ports) -> list[str]:
    """One member; nothing waits for the disk: what it holds is worth no more than the run."""
    client = f"http://{LOOPBACK}:{ports.etcd}"
    peer = f"http://{LOOPBACK}:{ports.etcd_peer}"
    return [
        "--name=netaccel",
        f"--data-dir={data}",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=netaccel={peer}",
        "--log-level=warn",
    ]


def api_server(options: Options, keys: Keys, ports: Ports, audit: tuple[Path, Path] | None) -> list[str]:
    """``audit``: its policy's file and its log's."""
    bind = options.addresses[0] if len(options.addresses) == 1 else "::"
    reconciler = "lease" if options.advertised else "none"
    line = [
        f"--etcd-servers=http://{LOOPBACK}:{ports.etcd}",
        f"--bind-address={bind}",
        f"--secure-port={ports.api}",
        f"--advertise-address={options.advertised or _DOCUMENTATION}",
        f"--endpoint-reconciler-type={reconciler}",
        f"--tls-cert-file={keys.serving.certificate}",
        f"--tls-private-key-file={keys.serving.key}",
        f"--client-ca-file={keys.ca}",
        f"--kubelet-client-certificate={keys.kubelet_client.certificate}",
        f"--kubelet-client-key={keys.kubelet_client.key}",
        f"--kubelet-certificate-authority={keys.ca}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={keys.token_public_key}",
        f"--service-account-signing-key-file={keys.token_key}",
        f"--service-cluster-ip-range={','.join(options.service_networks)}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        "--anonymous-auth=true",
        *_gates(options),
    ]
    if audit:
        line += [f"--audit-policy-file={audit[0]}", f"--audit-log-path={audit[1]}"]
    return [*line, *options.arguments]


def controller_manager(options: Options, keys: Keys, ports: Ports, kubeconfig: Path) -> list[str]:
    """No election: there is one."""
    networks = list(options.pod_networks)
    return [
        *_asks(kubeconfig, ports.controller_manager),
        f"--controllers={','.join(options.controllers)}",
        "--use-service-account-credentials=true",
        f"--service-account-private-key-file={keys.token_key}",
        f"--root-ca-file={keys.ca}",
        f"--cluster-signing-cert-file={keys.ca}",
        f"--cluster-signing-key-file={keys.ca_key}",
        f"--service-cluster-ip-range={','.join(options.service_networks)}",
        *([f"--cluster-cidr={','.join(networks)}"] if networks else []),
        *_gates(options),
    ]


def scheduler(options: Options, ports: Ports, kubeconfig: Path) -> list[str]:
    """No election: there is one."""
    return [*_asks(kubeconfig, ports.scheduler), *_gates(options)]


def _asks(kubeconfig: Path, port: int) -> list[str]:
    """What a client of the API server that listens too is told."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={port}",
        "--leader-elect=false",
    ]


def _gates(options: Options) -> list[str]:
    pairs = ",".join(f"{name}={str(on).lower()}" for name, on in options.feature_gates.items())
    return [f"--feature-gates={pairs}"] if pairs else []
