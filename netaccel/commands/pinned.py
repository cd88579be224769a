# SPDX-License-Identifier: Apache-2.0
"""The pinned maps of a node, opened by a command without any agent's help."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netaccel.datapath.abi import Abi
from netaccel.datapath.bpfobject import OBJECTS
from netaccel.datapath.instance import Instance
from netaccel.datapath.maps import KernelMaps
from netaccel.errors import ConfigError, DatapathError

_ABI_OBJECT = "tc_pod.o"  # has every map that people look at


def require_root() -> None:
    """Raise ConfigError unless the kernel will listen to us."""
    if os.geteuid() != 0:
        raise ConfigError("this needs root: run it with sudo")


def package_abi() -> Abi:
    """Layouts and names that this package was built with."""
    path = OBJECTS / _ABI_OBJECT
    try:
        return Abi.from_elf(path.read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(f"{path} is missing: build the programs with `make bpf`") from error


@contextmanager
def pinned_maps(bpffs: str) -> Iterator[tuple[KernelMaps, Abi]]:
    """Open the maps pinned below ``bpffs``. DatapathError where no datapath is there."""
    require_root()
    instance = Instance(Path(bpffs))
    if not instance.exists():
        raise DatapathError(
            f"no datapath is pinned at {instance.folder}: start `netaccel agent`, or give --bpffs"
        )
    abi = package_abi()
    maps = KernelMaps.open(instance.maps, abi)
    try:
        yield maps, abi
    finally:
        maps.close()
