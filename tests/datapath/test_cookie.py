# SPDX-License-Identifier: Apache-2.0
"""The namespace's cookie, as kernels without SO_NETNS_COOKIE are asked for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from netaccel.datapath import cookie, netlink
from netaccel.errors import DatapathError

pytestmark = pytest.mark.root


@pytest.mark.skipif(not netlink.netns_cookie(), reason="this kernel has no SO_NETNS_COOKIE to compare with")
def test_a_program_sees_the_cookie_that_a_socket_tells(netns: str, cgroup: Path) -> None:
    home = cookie.seen_by_program(cgroup)
    assert home == netlink.netns_cookie()
    with netlink.inside_namespace(netns):
        there = cookie.seen_by_program(cgroup)
        assert there == netlink.netns_cookie()
    assert there != home


def test_it_is_the_same_each_time_and_leaves_no_cgroup(cgroup: Path) -> None:
    first = cookie.seen_by_program(cgroup)
    assert first
    assert cookie.seen_by_program(cgroup) == first
    assert not [path for path in cgroup.iterdir() if path.is_dir()]


def test_a_folder_that_is_no_cgroup_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatapathError, match="the namespace's cookie can't be learnt"):
        cookie.seen_by_program(tmp_path)
    assert not list(tmp_path.iterdir())
