# SPDX-License-Identifier: Apache-2.0
"""Where a node's folders are; which ports the kernel must not choose; what a node's folder remembers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from netaccel.config import PortRange
from netaccel.datapath import libbpf, ports
from netaccel.datapath.instance import Instance
from netaccel.datapath.mounts import Mount, check_bpffs, filesystem_of, find_cgroup, parse_mountinfo
from netaccel.errors import ConfigError, DatapathError

LINES = r"""
22 28 0:20 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /sys rw,nosuid - sysfs sysfs rw
24 23 0:22 / /sys/fs/cgroup ro - tmpfs tmpfs ro
25 24 0:23 / /sys/fs/cgroup/unified rw shared:9 master:3 - cgroup2 cgroup2 rw
26 22 0:24 / /mnt/a\040b rw - bpf bpf rw
""".strip()


def test_mounts_are_read_with_their_types_and_odd_names() -> None:
    mounts = parse_mountinfo(LINES)
    assert mounts[3] == Mount(Path("/sys/fs/cgroup/unified"), "cgroup2", "rw")
    assert mounts[4] == Mount(Path("/mnt/a b"), "bpf", "rw")


def test_a_path_belongs_to_the_innermost_mount() -> None:
    mounts = parse_mountinfo(LINES)
    assert filesystem_of(Path("/sys/fs/cgroup/unified/kubepods"), mounts) == "cgroup2"
    assert filesystem_of(Path("/sys/fs/cgroup/memory"), mounts) == "tmpfs"
    assert filesystem_of(Path("/home"), mounts) == "ext4"


def test_the_cgroup_root_is_found_wherever_it_is_mounted() -> None:
    assert find_cgroup(None, parse_mountinfo(LINES)) == Path("/sys/fs/cgroup/unified")
    with pytest.raises(ConfigError, match="cgroup v2 is not mounted"):
        find_cgroup(None, [])


def test_a_folder_of_another_file_system_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"mount -t bpf bpf {tmp_path}"):
        check_bpffs(tmp_path)
    with pytest.raises(ConfigError, match="not cgroup v2"):
        find_cgroup(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        find_cgroup(tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "7", "1-3", "1-3,5,7-65535"])
def test_port_lists_are_written_as_they_are_read(text: str) -> None:
    assert ports.format_ports(ports.parse_ports(text + "\n")) == text


def test_neighbouring_ports_become_one_range() -> None:
    assert ports.format_ports([3, 1, 2, 9]) == "1-3,9"


# -------------------------------------------------------------------- instance


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "bpf"
    folder.mkdir()
    libbpf.mount("bpf", str(folder), "bpf")
    yield folder
    libbpf.unmount(str(folder))


@pytest.mark.root
def test_a_node_has_one_writer_at_a_time(bpffs: Path) -> None:
    first, second = Instance(bpffs), Instance(bpffs)
    assert second.agent_pid() == 0
    first.lock()
    assert second.agent_pid() == os.getpid()
    with pytest.raises(DatapathError, match=rf"an agent \(pid {os.getpid()}\) already serves"):
        second.lock()
    first.unlock()
    second.lock()
    second.unlock()


@pytest.mark.root
def test_notes_live_in_the_nodes_folder_until_it_is_removed(bpffs: Path) -> None:
    instance = Instance(bpffs)
    instance.lock()
    assert instance.note("colour") == ""
    instance.write_note("colour", "blue")
    instance.write_note("colour", "green")
    assert Instance(bpffs).note("colour") == "green"
    instance.write_note("colour", "")
    assert instance.note("colour") == ""
    instance.write_note("colour", "red")
    instance.remove()
    instance.unlock()
    assert not instance.exists()


@pytest.fixture
def sysctls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files in place of ip_local_port_range (32768-60999) and ip_local_reserved_ports (40000)."""
    local, reserved = tmp_path / "local", tmp_path / "reserved"
    local.write_text("32768\t60999\n")
    reserved.write_text("40000\n")
    monkeypatch.setattr(ports, "_LOCAL", local)
    monkeypatch.setattr(ports, "_RESERVED", reserved)
    return reserved


@pytest.mark.root
def test_only_what_is_shared_and_not_yet_reserved_is_reserved_and_given_back(
    bpffs: Path, sysctls: Path
) -> None:
    instance = Instance(bpffs)
    instance.lock()
    assert ports.reserve(instance, PortRange(10000, 29999)) == set()
    assert sysctls.read_text() == "40000\n", "a range beside the kernel's needs nothing"
    ports.reserve(instance, PortRange(39999, 40002))
    assert sysctls.read_text() == "39999-40002\n"
    ports.reserve(instance, PortRange(50000, 50001))
    assert sysctls.read_text() == "40000,50000-50001\n", "another range replaces the first"
    assert ports.reserve(instance, PortRange(50000, 50001)) == {50000, 50001}
    assert ports.release(instance) == {50000, 50001}
    assert sysctls.read_text() == "40000\n"
    assert ports.release(instance) == set()
    instance.remove()
    instance.unlock()
