# SPDX-License-Identifier: Apache-2.0
"""What the probe says of this kernel, and of kernels that lack things."""

from __future__ import annotations

import errno
import gc
from pathlib import Path

import pytest

from netaccel.datapath import libbpf, probe
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.probe import Feature
from netaccel.errors import DatapathError

pytestmark = pytest.mark.root


def by_name(found: list[Feature]) -> dict[str, Feature]:
    return {feature.name: feature for feature in found}


def test_required_features_are_here_and_each_lack_has_an_instead(bpffs: Path) -> None:
    found = probe.probe(bpffs)

    assert [f.name for f in found if f.required and not f.ok] == []
    assert len(by_name(found)) == len(found), "names are unique"
    assert all(f.instead for f in found if not f.ok)
    assert all("\n" not in f.detail + f.instead for f in found)


def test_it_leaves_nothing_open(bpffs: Path) -> None:
    """What is neither attached nor pinned ends with its last descriptor."""
    probe.probe(bpffs)
    gc.collect()  # what other tests left to it may hold descriptors
    before = sorted(Path("/proc/self/fd").iterdir())

    probe.probe(bpffs)

    assert sorted(Path("/proc/self/fd").iterdir()) == before
    assert [path.name for path in bpffs.iterdir() if not path.name.endswith(".debug")] == []


def test_a_folder_that_is_no_bpf_file_system_is_told(tmp_path: Path) -> None:
    feature = by_name(probe.probe(tmp_path))["bpf file system"]

    assert not feature.ok
    assert feature.instead == f"mount -t bpf bpf {tmp_path}"


def test_an_old_kernel_s_lacks_are_told_with_their_substitutes(
    bpffs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As 5.10 would answer: no bpf_set_retval, no bpf_sock_destroy, no tcx, no batches for a type."""
    load = BpfObject.load

    def refuse(obj: BpfObject) -> None:
        if {"sock_set_retval", "sock_destroy"} & set(obj.wanted_programs()):
            raise DatapathError("refused", errno.EINVAL)
        load(obj)

    monkeypatch.setattr(BpfObject, "load", refuse)
    monkeypatch.setattr(probe, "has_tcx", lambda: False)
    monkeypatch.setattr(libbpf, "map_update_batch", lambda *_: libbpf.Batch(0, errno.EINVAL))

    lacks = {f.name: f for f in probe.probe(bpffs) if not f.ok}

    assert {
        "refusals with their own errno",
        "destroying sockets from BPF",
        "tc links (tcx)",
        "map batches",
    } <= set(lacks)
    assert "since 5.18" in lacks["refusals with their own errno"].detail
    assert lacks["map batches"].instead == "entries are written one by one"


def test_without_rights_the_rest_is_not_tried(bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(libbpf, "map_create", refuse)

    found = by_name(probe.probe(bpffs))

    assert not found["rights"].ok
    assert "run as root" in found["rights"].instead
    assert "XDP" not in found
