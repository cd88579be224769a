# SPDX-License-Identifier: Apache-2.0
"""``netaccel mounts`` in a pod of a node made of real namespaces: what it has then, and after detach."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from netaccel.datapath.mounts import OWN_BPFFS, OWN_CGROUP, find_cgroup
from netaccel.datapath.ownmounts import cgroup_options

pytestmark = pytest.mark.root


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup of the machine that stands for a node's root."""
    folder = find_cgroup(None) / f"netaccel-test-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    yield folder
    for path in (folder / "pod", folder):
        if path.exists():
            path.rmdir()


def run_node(cgroup: Path, *words: str) -> dict[str, Any]:
    program = Path(__file__).with_name("mountnode.py")
    namespaces = ["unshare", "--mount", "--pid", "--fork", "--cgroup", "--kill-child"]
    joined = ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(cgroup / "cgroup.procs"), *namespaces]
    node = [*joined, sys.executable, str(program), str(cgroup), *words]
    done = subprocess.run(node, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def said(step: dict[str, Any]) -> Any:
    assert step["status"] == 0, step["said"]
    return json.loads(step["said"])


def test_a_pod_gives_a_bare_node_both_and_detach_takes_them_away(cgroup: Path) -> None:
    seen = run_node(cgroup)
    assert seen["mounts"] == {"bpf": "bpf", "cgroup": "cgroup2"}, "the node has what the pod mounted"
    assert seen["sees"] == ["pod"], "the tree is the node's, not the pod's, nor the machine's"
    assert "a new bpf file system" in said(seen["first"])["mounts"][0]
    assert all("already" in line for line in said(seen["again"])["mounts"])
    features = {feature["name"]: feature["detail"] for feature in json.loads(seen["found"]["said"])}
    assert features["cgroup v2"] == str(OWN_CGROUP)
    assert features["bpf file system"] == str(OWN_BPFFS)
    assert said(seen["detach"])["removed"] == [f"mount {OWN_CGROUP}", f"mount {OWN_BPFFS}"]
    assert seen["after"] == {}
    assert not seen["folder"]


def test_pins_are_found_at_the_usual_place_too_where_there_is_one(cgroup: Path) -> None:
    seen = run_node(cgroup, "usual")
    assert "the bpf file system of /sys/fs/bpf" in said(seen["first"])["mounts"][0]
    assert seen["same"]
    assert seen["after"] == {}


def test_a_pod_whose_mounts_stay_with_it_is_told_so(cgroup: Path) -> None:
    refused = run_node(cgroup)["private"]
    assert refused["status"] == 1
    assert "mountPropagation: Bidirectional" in refused["said"]
    assert refused["said"].count("\n") == 1


@pytest.mark.parametrize(
    ("present", "options"),
    [
        ([], ""),
        (["rw"], ""),
        (["rw,nsdelegate,memory_recursiveprot", "rw"], "nsdelegate,memory_recursiveprot"),
        (["rw,seclabel,nsdelegate"], "nsdelegate"),
    ],
)
def test_one_more_mount_of_the_cgroups_keeps_the_options_of_the_others(
    present: list[str], options: str
) -> None:
    assert cgroup_options(present) == options
