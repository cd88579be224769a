# SPDX-License-Identifier: Apache-2.0
"""Cluster DNS: the manifest ``dns.yaml``, filled in."""

from __future__ import annotations

from pathlib import Path
from string import Template

from netaccel.cluster.images import COREDNS
from netaccel.cluster.plan import API_PORT, DNS4, DNS6, DOMAIN
from netaccel.lab.plan import ROUTER4

_MANIFEST = Path(__file__).with_name("dns.yaml")


def manifest(replicas: int = 1) -> str:
    """CoreDNS with its rights, and the Service ``kube-dns`` at the address that kubelets tell pods."""
    return Template(_MANIFEST.read_text(encoding="utf-8")).substitute(
        domain=DOMAIN,
        replicas=replicas,
        image=COREDNS,
        api_host=ROUTER4,
        api_port=API_PORT,
        address4=DNS4,
        address6=DNS6,
    )
