# SPDX-License-Identifier: Apache-2.0
"""The project's maps in the kernel, written and read as records."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap, MapType
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.maps import KernelMaps
from netaccel.errors import DatapathError, MapFullError
from netaccel.records import (
    Backend,
    Flow,
    FlowKey,
    Frontend,
    FrontendKey,
    Node,
    Service,
    SourceRange,
    SourceRangeKey,
    Traffic,
)

pytestmark = pytest.mark.root

V4 = bytes(10) + b"\xff\xff"
SMALL = 64  # entries of every map of the fixture `small`
FRONTEND = Frontend(1, 2, 3, 0, 10, 20, 30, 40, 10800)


@pytest.fixture
def maps(small: BpfObject) -> Iterator[KernelMaps]:
    found = KernelMaps({name: small.map(name) for name in small.map_definitions()}, small.abi)
    yield found
    found.close()


@pytest.fixture(params=["in-batches", "one-by-one"])
def either(maps: KernelMaps, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> KernelMaps:
    """Maps of a kernel with batch calls, and of one without."""
    if request.param == "one-by-one":

        def unsupported(*_: object) -> libbpf.Batch:
            return libbpf.Batch(0, errno.EINVAL)

        for name in ("map_update_batch", "map_delete_batch", "map_lookup_batch"):
            monkeypatch.setattr(libbpf, name, unsupported)
    return maps


def frontend4(i: int) -> FrontendKey:
    return FrontendKey(V4 + bytes([192, 0, 2, i]), 80 + i, 6)


def frontend6(i: int) -> FrontendKey:
    return FrontendKey(bytes.fromhex("20010db8") + bytes(11) + bytes([i]), 80 + i, 17)


def test_both_families_are_one_map(either: KernelMaps, small: BpfObject) -> None:
    entries = [(frontend4(1), FRONTEND), (frontend6(1), FRONTEND), (frontend4(2), FRONTEND)]

    either.write("frontends", entries)

    assert either.dump("frontends") == dict(entries)
    with small.map("frontends4") as v4, small.map("frontends6") as v6:
        assert v4.lookup(bytes([192, 0, 2, 1, 0, 81, 6, 0])) is not None, "address and port in network order"
        assert sum(chunk.total for chunk in v4.read()) == 2
        assert sum(chunk.total for chunk in v6.read()) == 1


def test_absent_keys_may_be_deleted(either: KernelMaps) -> None:
    either.write("frontends", [(frontend4(i), FRONTEND) for i in range(8)])

    either.delete("frontends", [frontend4(i) for i in (20, 1, 21, 22, 3, 1, 23)] + [frontend6(9)])

    assert {key.port for key in either.dump("frontends")} == {80, 82, 84, 85, 86, 87}


def test_writing_again_replaces(either: KernelMaps) -> None:
    either.write("frontends", [(frontend4(1), FRONTEND)])
    either.write("frontends", [(frontend4(1), FRONTEND._replace(flags=9))])

    assert either.dump("frontends") == {frontend4(1): FRONTEND._replace(flags=9)}


def test_a_full_map_says_how_many_went_in(either: KernelMaps) -> None:
    with pytest.raises(MapFullError, match=f"map frontends4 is full \\({SMALL} entries\\)") as caught:
        either.write("frontends", [(frontend4(i), FRONTEND) for i in range(SMALL + 5)])

    assert caught.value.written == SMALL == len(either.dump("frontends"))
    assert caught.value.errno == errno.E2BIG
    either.delete("frontends", [frontend4(0)])
    either.write("frontends", [(frontend4(70), FRONTEND)])


def test_a_full_map_of_the_other_family_counts_what_went_in_before(either: KernelMaps) -> None:
    entries = [(frontend6(i), FRONTEND) for i in range(SMALL + 1)] + [(frontend4(1), FRONTEND)]

    with pytest.raises(MapFullError) as caught:
        either.write("frontends", entries)

    assert caught.value.written == SMALL + 1


def test_a_full_prefix_tree_is_full(either: KernelMaps) -> None:
    ranges = [(SourceRangeKey(160, 1, V4 + bytes([192, 0, 2, i])), SourceRange(1)) for i in range(SMALL + 1)]

    with pytest.raises(MapFullError):
        either.write("source_ranges", ranges)


def test_prefixes_are_entries(either: KernelMaps) -> None:
    wide, narrow = (SourceRangeKey(32 + 96 + n, 1, V4 + bytes([192, 0, 2, 0])) for n in (16, 24))
    either.write("source_ranges", [(wide, SourceRange(1)), (narrow, SourceRange(1))])
    either.delete("source_ranges", [wide])

    assert either.dump("source_ranges") == {narrow: SourceRange(1)}


def test_an_array_dumps_what_is_not_zero(either: KernelMaps) -> None:
    backend = Backend(V4 + bytes([192, 0, 2, 9]), 8080, 6, 1, 1, 0, 0, 5, 2)
    either.write("backends", [(5, backend), (63, backend)])
    assert either.dump("backends") == {5: backend, 63: backend}

    either.delete("backends", [5])

    assert either.dump("backends") == {63: backend}
    assert either.get("backends", 5) == Backend(bytes(16), 0, 0, 0, 0, 0, 0, 0, 0)


def test_integers_are_values_too(either: KernelMaps) -> None:
    either.write("maglev", [(i, 100 + i) for i in range(0, SMALL, 3)])

    assert either.dump("maglev") == {i: 100 + i for i in range(0, SMALL, 3)}


def test_an_index_beyond_an_array_is_an_error_not_a_loss(either: KernelMaps) -> None:
    with pytest.raises(DatapathError, match="map maglev"):
        either.write("maglev", [(SMALL, 1)])


def test_per_cpu_values_are_lists(either: KernelMaps, small: BpfObject) -> None:
    mine = [Traffic(10 + cpu, 1000 + cpu) for cpu in range(libbpf.cpus())]
    either.write("drops", [(2, mine)])

    assert either.dump("drops") == {2: mine}
    assert either.get("drops", 3) == [Traffic(0, 0)] * libbpf.cpus()


def test_text_and_flows(either: KernelMaps) -> None:
    service = Service("kube-system", "dns-é", "dns-tcp", 53, 17, 10)
    key = FlowKey(frontend6(1).addr, frontend6(2).addr, 1000, 53, 17, 1)
    flow = Flow(frontend6(3).addr, frontend6(4).addr, 1, 65535, *range(5, 13), b"abcdef", b"ghijkl", 1, 2, 3)
    either.write("services", [(7, service)])
    either.write("flows", [(key, flow)])
    either.write("node", [(0, Node(V4 + bytes([192, 0, 2, 1]), bytes(16)))])

    assert either.dump("services") == {7: service}
    assert either.dump("flows") == {key: flow}
    assert either.dump("node") == {0: Node(V4 + bytes([192, 0, 2, 1]), bytes(16))}


def test_capacity_names_and_memory(maps: KernelMaps) -> None:
    assert maps.capacity("frontends") == SMALL
    assert "frontends" in maps.names()
    assert "frontends4" not in maps.names()
    assert maps.memory()["frontends4"] > 0
    with pytest.raises(DatapathError, match="no map nonsense: there are affinity, backends"):
        maps.dump("nonsense")


def test_a_bucket_larger_than_the_batch_is_read_whole() -> None:
    """The kernel answers ENOSPC where one bucket holds more entries than the caller has room for."""
    with KernelMap.create(MapType.HASH, "crowd", 4, 4, 10_000) as crowd:
        keys = b"".join(i.to_bytes(4, "little") for i in range(10_000))
        crowd.write(keys, keys, 10_000)
        crowd.chunk = 2

        assert sum(entries.total for entries in crowd.read()) == 10_000


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN, errno.ENOMEM])
def test_a_passing_refusal_is_tried_again(
    maps: KernelMaps, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = libbpf.map_update_batch
    refusals = iter([number] * 3)

    def sometimes(fd: int, keys: bytes, values: bytes, count: int, at: tuple[int, int]) -> libbpf.Batch:
        if refusal := next(refusals, 0):
            return libbpf.Batch(0, refusal)
        return real(fd, keys, values, count, at)

    monkeypatch.setattr(libbpf, "map_update_batch", sometimes)
    maps.write("frontends", [(frontend4(i), FRONTEND) for i in range(4)])

    assert len(maps.dump("frontends")) == 4


def test_a_refusal_that_stays_is_told(maps: KernelMaps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libbpf, "map_update_batch", lambda *_: libbpf.Batch(0, errno.ENOMEM))

    with pytest.raises(MapFullError) as caught:
        maps.write("frontends", [(frontend4(1), FRONTEND)])
    assert caught.value.written == 0
