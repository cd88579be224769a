# SPDX-License-Identifier: Apache-2.0
"""Private ground for tests that touch the kernel: each fixture leaves nothing behind."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import compile_program

from netaccel.datapath import libbpf, netlink
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.instance import Instance
from netaccel.datapath.mounts import find_cgroup

SMALL = 64


def _unique() -> str:
    return f"nat{os.getpid()}-{uuid.uuid4().hex[:6]}"


@pytest.fixture
def bpffs() -> Iterator[Path]:
    """A bpf file system of this test's own."""
    folder = Path("/run") / _unique()
    folder.mkdir()
    libbpf.mount("bpf", str(folder), "bpf")
    try:
        yield folder
    finally:
        libbpf.unmount(str(folder))
        folder.rmdir()


@pytest.fixture
def instance(bpffs: Path) -> Iterator[Instance]:
    """A node's folder, locked by this test."""
    found = Instance(bpffs)
    found.lock()
    yield found
    found.unlock()


@pytest.fixture
def netns() -> Iterator[str]:
    """The name of a network namespace; enter it with ``netlink.inside_namespace``."""
    name = _unique()
    netlink.create_namespace(name)
    try:
        yield name
    finally:
        netlink.delete_namespace(name)


@pytest.fixture
def inside(netns: str) -> Iterator[str]:
    """The test itself runs in a network namespace of its own; the name of it."""
    with netlink.inside_namespace(netns):
        yield netns


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup v2 folder without processes."""
    folder = find_cgroup(None) / _unique()
    folder.mkdir()
    try:
        yield folder
    finally:
        folder.rmdir()


@pytest.fixture
def build(tmp_path: Path) -> Callable[[str], Path]:
    """Compile a program text against the project's headers; gives the object's path."""
    numbers = iter(range(1000))

    def compiled(text: str, name: str = "") -> Path:
        source = tmp_path / f"{name or f'test{next(numbers)}'}.bpf.c"
        source.write_text(text)
        return compile_program(source, source.with_suffix("").with_suffix(".o"))

    return compiled


EVERY_MAP = """
#include "maps.h"
#include "settings.h"

SEC("xdp")
int every_map(struct xdp_md *ctx)
{
	__u32 key = settings.hz;

	return bpf_map_lookup_elem(&drops, &key) ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture(scope="session")
def every_map(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An object with every map of the project and one XDP program."""
    folder = tmp_path_factory.mktemp("objects")
    source = folder / "every_map.bpf.c"
    source.write_text(EVERY_MAP)
    return compile_program(source, folder / "every_map.o")


@pytest.fixture
def small(every_map: Path) -> Iterator[BpfObject]:
    """Every map of the project, loaded, none larger than 64 entries."""
    with BpfObject(every_map) as obj:
        for name, definition in obj.map_definitions().items():
            if definition.max_entries > SMALL:
                obj.resize(name, SMALL)
        obj.load()
        yield obj
