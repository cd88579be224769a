# SPDX-License-Identifier: Apache-2.0
"""Which entries programs find of pods that are reached past the stack."""

from __future__ import annotations

from pathlib import Path

from netaccel.datapath.abi import Abi
from netaccel.datapath.fake import FakeMaps
from netaccel.datapath.peers import Peers, hints
from netaccel.model.address import Address, parse_address
from netaccel.records import PodPeer, PodPeerKey

ABI = Abi.from_elf((Path(__file__).parents[2] / "netaccel/objects/tc_pod.o").read_bytes())
A, B = (Address(parse_address(text)) for text in ("10.0.0.1", "fd00::2"))


def peer(ifindex: int) -> PodPeer:
    return PodPeer(ifindex, 0, bytes(6), bytes(6))


def test_hints_have_the_programs_length() -> None:
    found = hints([A, B], ABI.constants)
    assert len(found.likely) == ABI.maps["peer_hints"].value.size
    assert sum(found.likely) == 2
    assert sum(hints((), ABI.constants).likely) == 0


def there(maps: FakeMaps) -> dict[Address, PodPeer]:
    return {key.addr: value for key, value in maps.dump("pod_peers").items()}


def hinted(maps: FakeMaps) -> set[int]:
    return {at for at, bit in enumerate(maps.dump("peer_hints")[0].likely) if bit}


def test_entries_come_change_and_go() -> None:
    maps = FakeMaps()
    peers = Peers(maps, ABI.constants)
    for wanted in ({A: peer(3)}, {A: peer(3), B: peer(4)}, {A: peer(5), B: peer(4)}, {B: peer(4)}, {}):
        peers.set(wanted)
        assert there(maps) == dict(peers.there) == wanted
        assert hinted(maps) == {at for at, bit in enumerate(hints(wanted, ABI.constants).likely) if bit}


def test_nothing_is_written_twice() -> None:
    maps = FakeMaps()
    peers = Peers(maps, ABI.constants)
    peers.set({A: peer(3)})
    maps.writes.clear()
    peers.set({A: peer(3)})
    assert not maps.writes


def test_no_hint_leads_to_what_is_not_there_any_more() -> None:
    maps = FakeMaps()
    peers = Peers(maps, ABI.constants)
    peers.set({A: peer(3), B: peer(4)})

    def check() -> None:
        assert hinted(maps) <= {at for at, bit in enumerate(hints(there(maps), ABI.constants).likely) if bit}

    maps.after_write = check
    peers.set({B: peer(4)})
    peers.clear()


def test_what_an_earlier_agent_left_is_known() -> None:
    maps = FakeMaps()
    maps.write("pod_peers", [(PodPeerKey(A), peer(3))])
    peers = Peers(maps, ABI.constants)
    assert peers.there == {A: peer(3)}
    peers.clear()
    assert there(maps) == {}


def test_what_does_not_fit_is_said_and_goes_the_plain_way() -> None:
    maps = FakeMaps(pod_peers=1)
    peers = Peers(maps, ABI.constants)
    peers.set({A: peer(3), B: peer(4)})
    assert "mapSizes pod_peers" in peers.problem
    assert there(maps) == {} == dict(peers.there)
    peers.set({A: peer(3)})
    assert peers.problem == ""
    assert there(maps) == {A: peer(3)}
