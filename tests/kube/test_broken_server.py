# SPDX-License-Identifier: Apache-2.0
"""What a test may do to a control plane of its own, and what clients see of it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from netaccel.cluster import controlplane
from netaccel.cluster.arguments import Options
from netaccel.cluster.binaries import Binaries
from netaccel.cluster.controlplane import ControlPlane
from netaccel.cluster.ports import free_ports
from netaccel.errors import LabError
from netaccel.lab.handle import wait_for

SERVICE_ACCOUNT = ("-n", "default", "create", "serviceaccount")


def names(plane: ControlPlane) -> set[str]:
    listed = plane.kubectl("-n", "default", "get", "configmaps", "-o", "json")
    return {item["metadata"]["name"] for item in json.loads(listed)["items"]} - {"kube-root-ca.crt"}


def put(plane: ControlPlane, name: str) -> int:
    """The resource version that it got."""
    made = plane.kubectl("-n", "default", "create", "configmap", name, "-o", "json")
    return int(json.loads(made)["metadata"]["resourceVersion"])


def watch(plane: ControlPlane, version: int) -> str:
    path = f"/api/v1/namespaces/default/configmaps?watch=true&resourceVersion={version}&timeoutSeconds=1"
    return plane.kubectl("get", f"--raw={path}")


def test_a_watch_from_a_compacted_version_ends_with_410(own_control_plane: ControlPlane) -> None:
    version = put(own_control_plane, "first")
    put(own_control_plane, "second")
    # Each watch is over after a second.
    wait_for(lambda: '"second"' in watch(own_control_plane, version), "the second object", 60)
    put(own_control_plane, "third")
    own_control_plane.compact()
    own_control_plane.stop_api_server()
    own_control_plane.start_api_server()
    assert '"code":410' in watch(own_control_plane, version).replace(" ", "")


def test_an_older_state_has_what_it_had_and_older_versions(own_control_plane: ControlPlane) -> None:
    put(own_control_plane, "before")
    own_control_plane.save_state("early")
    many = [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"after-{n}"}} for n in range(100)]
    later = json.dumps({"apiVersion": "v1", "kind": "List", "items": many})
    own_control_plane.kubectl("-n", "default", "create", "-f", "-", stdin=later)
    reached = put(own_control_plane, "last")
    own_control_plane.restore_state("early")
    assert names(own_control_plane) == {"before"}
    assert put(own_control_plane, "again") < reached


def test_a_state_that_was_not_saved_cannot_be_restored(own_control_plane: ControlPlane) -> None:
    with pytest.raises(LabError, match="save_state first"):
        own_control_plane.restore_state("never")
    assert own_control_plane.is_ready()


def test_a_frozen_server_says_nothing_and_goes_on_when_thawed(own_control_plane: ControlPlane) -> None:
    own_control_plane.freeze_api_server()
    assert not own_control_plane.is_ready()
    own_control_plane.thaw_api_server()
    wait_for(own_control_plane.is_ready, "the server", 60)


def test_a_token_is_its_accounts_until_it_expires(own_control_plane: ControlPlane) -> None:
    own_control_plane.kubectl(*SERVICE_ACCOUNT, "agent")
    valid = own_control_plane.kubeconfig_of_account("default", "agent")
    expired = own_control_plane.kubeconfig_of_account("default", "agent", seconds=-60)
    who = own_control_plane.kubectl("auth", "whoami", "-o", "json", user=valid)
    user = json.loads(who)["status"]["userInfo"]["username"]
    assert user == "system:serviceaccount:default:agent"
    with pytest.raises(LabError, match="Unauthorized"):
        own_control_plane.kubectl("get", "configmaps", user=expired)


@pytest.mark.parametrize("which", ["api", "etcd"])
def test_a_port_that_was_taken_meanwhile_is_given_up_for_another(
    which: str, tmp_path: Path, programs: Binaries, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free = free_ports()
        answers = iter([free._replace(**{which: taken.getsockname()[1]}), free])
        monkeypatch.setattr(controlplane, "free_ports", lambda _: next(answers))
        with ControlPlane(tmp_path, programs) as plane:
            assert plane.port == free.api
            assert plane.is_ready()


RUN = """
import sys, time
from pathlib import Path
from netaccel.cluster.binaries import find_or_build, CONTROL_PLANE
from netaccel.cluster.controlplane import ControlPlane
plane = ControlPlane(Path(sys.argv[1]), find_or_build(CONTROL_PLANE))
plane.start()
print(*(child.pid for child in plane._children.values()), flush=True)
time.sleep(600)
"""


def test_nothing_outlives_a_run_that_is_killed(tmp_path: Path, programs: Binaries) -> None:
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 2
        run.send_signal(signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in pids), "their end", 60)


def test_in_a_namespace_the_same_calls_reach_it(tmp_path: Path, programs: Binaries) -> None:
    from netaccel.datapath import netlink
    from netaccel.datapath.mounts import find_cgroup
    from netaccel.lab.process import Place

    name = f"nacp{os.getpid()}"
    cgroup = find_cgroup(None) / name
    netlink.create_namespace(name)
    try:
        plane = ControlPlane(tmp_path, programs, Options(place=Place(cgroup, name)))
        with plane:
            version = put(plane, "inside")
            assert plane.compact() >= version
            assert names(plane) == {"inside"}
    finally:
        netlink.delete_namespace(name)
        cgroup.rmdir()
