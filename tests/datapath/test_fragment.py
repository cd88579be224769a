# SPDX-License-Identifier: Apache-2.0
"""Which ports a fragment has (bpf/include/fragment.h)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import SMALL, Loaded, compile_program
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment, fragment6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from netaccel.records import Fragment, FragmentKey, Frontend, FrontendKey

pytestmark = pytest.mark.root

PORTS = 4000 << 16 | 53
families = pytest.mark.parametrize("v6", [False, True], ids=["ipv4", "ipv6"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_program(Path(__file__).with_name("icmp.bpf.c"), tmp_path_factory.mktemp("bpf") / "icmp.o")


@pytest.fixture
def stage(built: Path) -> Iterator[Loaded]:
    with Loaded(built, sizes=SMALL) as loaded:
        yield loaded


def fragments(v6: bool, number: int = 7, size: int = 4000, sport: int = 4000) -> list[bytes]:
    """Frames of one datagram, in order."""
    datagram = UDP(sport=sport, dport=53) / Raw(b"f" * size)
    if v6:
        whole = IPv6(src="2001:db8::7", dst="2001:db8:f::1") / IPv6ExtHdrFragment(id=number) / datagram
        parts = fragment6(whole, 1480)
    else:
        parts = fragment(IP(src="198.51.100.7", dst="203.0.113.1", id=number) / datagram, 1400)
    assert len(parts) > 2
    return [bytes(Ether(dst="02:00:00:00:00:02") / p) for p in parts]


@families
def test_later_fragments_have_the_ports_of_the_first(stage: Loaded, v6: bool) -> None:
    first, *later = fragments(v6)
    assert [stage.run("ports_of", f)[0] for f in (first, *later)] == [PORTS] * (1 + len(later))
    assert stage.counter("COUNTER_FRAGMENT_INSERT") == 1


@families
def test_a_fragment_that_comes_before_its_first_has_none(stage: Loaded, v6: bool) -> None:
    first, *later = fragments(v6)
    assert stage.run("ports_of", later[-1])[0] == 0
    assert stage.run("ports_of", first)[0] == PORTS
    assert stage.run("ports_of", later[-1])[0] == PORTS


@families
def test_another_datagram_is_another(stage: Loaded, v6: bool) -> None:
    stage.run("ports_of", fragments(v6, number=7)[0])
    assert stage.run("ports_of", fragments(v6, number=8)[1])[0] == 0


@families
def test_an_identification_that_is_used_again_belongs_to_the_latest(stage: Loaded, v6: bool) -> None:
    stage.run("ports_of", fragments(v6)[0])
    stage.run("ports_of", fragments(v6, sport=5000)[0])
    assert stage.run("ports_of", fragments(v6)[1])[0] == 5000 << 16 | 53
    assert stage.counter("COUNTER_FRAGMENT_INSERT") == 1


@families
def test_what_was_remembered_too_long_ago_is_forgotten(stage: Loaded, v6: bool) -> None:
    first, later, *_ = fragments(v6)
    stage.run("ports_of", first)
    (key,) = stage.keys("fragments")
    assert isinstance(key, FragmentKey)
    value = stage.read("fragments", key)
    assert isinstance(value, Fragment)
    too_long = 31 * 1000  # jiffies, at the highest HZ
    stage.write("fragments", key, value._replace(seen=(value.seen - too_long) % 2**32))
    assert stage.run("ports_of", later)[0] == 0


@families
def test_an_orphan_is_dropped_where_the_address_is_a_services(stage: Loaded, v6: bool) -> None:
    later = fragments(v6)[1]
    assert stage.run("orphan", later)[0] == stage.abi.constants["DROP_NONE"]
    address = (
        bytes.fromhex("20010db8000f00000000000000000001") if v6 else bytes(10) + b"\xff\xff\xcb\x00\x71\x01"
    )
    wildcard = Frontend(1, 0, stage.abi.constants["FRONTEND_WILDCARD"], 0, 0, 0, 0, 0, 0)
    stage.write("frontends6" if v6 else "frontends4", FrontendKey(address, 0, 0), wildcard)
    assert stage.run("orphan", later)[0] == stage.abi.constants["DROP_FRAGMENT"]
