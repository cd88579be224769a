# SPDX-License-Identifier: Apache-2.0
"""Fixtures of tests that run a real agent."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from accelworld import Pod, namespace
from ground import Node, connect

from netaccel.datapath import libbpf, netlink
from netaccel.datapath.mounts import find_cgroup


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node without an agent yet."""
    name = f"na{os.getpid()}{uuid.uuid4().hex[:4]}"
    bpffs, cgroup, manifests = Path("/run") / name, find_cgroup(None) / name, tmp_path / "manifests"
    for folder in (bpffs, cgroup, manifests):
        folder.mkdir()
    libbpf.mount("bpf", str(bpffs), "bpf")
    made = Node(name, bpffs, cgroup, manifests)
    try:
        connect(made)
        yield made
    finally:
        made.close()
        libbpf.unmount(str(bpffs))
        for namespace in (name, made.outside):
            netlink.delete_namespace(namespace)
        bpffs.rmdir()
        with suppress(FileNotFoundError):
            cgroup.rmdir()


@pytest.fixture
def pods(node: Node) -> Iterator[tuple[Pod, Pod]]:
    """A client's and a server's, whose owner vouches for their programs (Python may splice)."""
    made = [Pod(node, "a", 1), Pod(node, "b", 2)]
    made[1].serve()
    node.put("pods.yaml", namespace(), *(pod.manifest() for pod in made))
    try:
        yield made[0], made[1]
    finally:
        for pod in made:
            pod.close()
