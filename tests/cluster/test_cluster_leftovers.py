# SPDX-License-Identifier: Apache-2.0
"""A cluster leaves nothing, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from clustercommand import UP_SECONDS, run

from netaccel.cluster import lifecycle
from netaccel.errors import LabError

STAGES = ("nodes started", "API server ready")


@pytest.fixture
def name() -> Iterator[str]:
    made = f"test{os.getpid()}gone"
    yield made
    run("down", name=made)


def leftovers(name: str) -> list[str]:
    """Files, groups, namespaces, mounts and processes that bear the cluster's name."""
    run, disk = Path("/run/netaccel/cluster") / name, Path("/var/lib/netaccel/cluster") / name
    found = [path for path in (run, disk, run.with_name(f"{name}.lock")) if path.exists()]
    found += Path("/sys/fs/cgroup").glob(f"netaccel-cluster/{name}")
    found += Path("/sys/fs/cgroup").glob(f"*/netaccel-cluster/{name}")
    found += Path("/run/netns").glob(f"nc-{name}-*")
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return [*map(str, found), *(line for line in mounts if f"/{name}/" in line), *processes(name)]


def processes(name: str) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace")
            group = (folder / "cgroup").read_text(encoding="utf-8")
        except (FileNotFoundError, ProcessLookupError):
            continue
        # A process without words is dead, and waits for the machine's init.
        if words and f"/netaccel-cluster/{name}/" in group:
            found.append(f"{folder.name} {words}")
    return found


def machine() -> dict[str, str]:
    """What a node must not change."""
    names = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "net/netfilter/nf_conntrack_max")
    paths = [Path("/proc/sys") / item for item in names]
    found = {str(path): path.read_text(encoding="ascii") for path in paths if path.exists()}
    return {**found, "hostname": os.uname().nodename, "etc": Path("/etc/hosts").read_text(encoding="utf-8")}


def test_down_leaves_nothing_and_the_machine_is_as_before(name: str) -> None:
    before = machine()
    run("up", "--nodes", "1", "--proxy", "kube-proxy-nftables", name=name, timeout=UP_SECONDS)
    assert leftovers(name)
    assert machine() == before

    assert "is down" in run("down", name=name)

    assert leftovers(name) == []
    assert machine() == before
    assert name not in lifecycle.names()
    assert "there is no cluster" in run("down", name=name)


@pytest.mark.parametrize("stage", STAGES)
def test_up_that_was_killed_is_cleared_by_down(name: str, stage: str) -> None:
    start = [sys.executable, "-u", "-m", "netaccel", "cluster", "up", "--name", name, "--proxy", "none"]
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout
        for line in up.stdout:
            if stage in line:
                up.send_signal(signal.SIGKILL)
                break
    assert leftovers(name)

    run("down", name=name)

    assert leftovers(name) == []


def test_up_mends_what_a_killed_one_left_and_is_content_with_what_is_up(name: str) -> None:
    start = [sys.executable, "-u", "-m", "netaccel", "cluster", "up", "--name", name, "--proxy", "none"]
    with subprocess.Popen(start, stdout=subprocess.PIPE, text=True) as up:
        assert up.stdout
        up.stdout.readline()
        up.send_signal(signal.SIGKILL)

    assert "building it anew" in run("up", "--proxy", "none", name=name)
    assert "is up already" in run("up", "--proxy", "none", name=name)
    with pytest.raises(LabError, match="other arguments"):
        run("up", "--nodes", "3", "--proxy", "none", name=name)
