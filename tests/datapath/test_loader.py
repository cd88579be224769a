# SPDX-License-Identifier: Apache-2.0
"""Loading over what is pinned: adopt, migrate, go on after a crash, leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from netaccel.datapath import attach, loader, netlink
from netaccel.datapath.attach import Attacher
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.instance import Instance
from netaccel.datapath.loader import Loaded
from netaccel.errors import VerifierError
from netaccel.records import Frontend, FrontendKey, Service, Traffic

pytestmark = pytest.mark.root

Build = Callable[..., Path]
CONSTANTS = {"hz": 100}
SIZES = {"frontends4": 32, "frontends6": 32, "services": 32, "backends": 32, "maglev": 32}

# A version of a datapath: a program that counts packets by protocol in two maps.
VERSION = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct seen_key {{
	__u32 proto;
	{key_field}
}};

struct seen {{
	{fields}
}};

struct {{
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, {entries});
	__type(key, struct seen_key);
	__type(value, struct seen);
}} seen SEC(".maps");

struct {{
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, {counters});
	__type(key, __u32);
	__type(value, __u64);
}} counts SEC(".maps");

SEC("tc") int count(struct __sk_buff *skb)
{{
	struct seen_key key = {{ .proto = 7 }};
	struct seen fresh = {{ .packets = {mark} }};
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&counts, &zero);

	if (n)
		(*n)++;
	bpf_map_update_elem(&seen, &key, &fresh, BPF_NOEXIST);
	return {verdict};
}}
char _license[] SEC("license") = "Dual BSD/GPL";
"""
OLD = {
    "fields": "__u32 packets; __u32 kept; __u64 dropped;",
    "key_field": "",
    "entries": 16,
    "counters": 4,
    "mark": 1,
    "verdict": -1,
}
NEW = {**OLD, "fields": "__u64 fresh; __u64 packets; __u32 kept; __u32 pad;", "mark": 2}


class Node:
    """Loads versions of the test's datapath as restarts of an agent would."""

    def __init__(self, instance: Instance, build: Build) -> None:
        self.instance = instance
        self._build = build
        self._number = 0

    def load(self, version: dict[str, object]) -> Loaded:
        self._number += 1
        path = self._build(VERSION.format(**version), f"version{self._number}")
        return loader.load(self.instance, [path], constants={}, sizes={})

    def raw(self, name: str = "seen") -> KernelMap:
        return KernelMap.open_pinned(self.instance.maps / name)

    def put(self, *entries: tuple[bytes, bytes]) -> None:
        with self.raw() as seen:
            for key, value in entries:
                seen.update(key, value)

    def dump(self, name: str = "seen") -> dict[bytes, bytes]:
        with self.raw(name) as seen:
            width, size = seen.info.key_size, seen.value_size
            return {
                keys[i * width : (i + 1) * width]: values[i * size : (i + 1) * size]
                for total, keys, values in seen.read()
                for i in range(total)
            }


@pytest.fixture
def node(instance: Instance, build: Build) -> Node:
    return Node(instance, build)


def u32(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(4, "little") for n in numbers)


def u64(*numbers: int) -> bytes:
    return b"".join(n.to_bytes(8, "little") for n in numbers)


def outcome(loaded: Loaded) -> dict[str, str]:
    return {change.name: change.what for change in loaded.changes}


def test_first_start_creates_and_pins_every_map(instance: Instance, every_map: Path) -> None:
    with loader.load(instance, [every_map], constants=CONSTANTS, sizes=SIZES) as loaded:
        loaded.commit()
        assert {change.what for change in loaded.changes} == {"created"}
        assert {pin.name for pin in instance.maps.iterdir()} == set(outcome(loaded))
        assert loaded.maps.capacity("frontends") == 32


def test_a_restart_finds_its_maps_with_their_entries(instance: Instance, every_map: Path) -> None:
    key = FrontendKey(bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1]), 80, 6)
    value = Frontend(1, 0, 1, 0, 0, 4, 0, 4, 0)
    with loader.load(instance, [every_map], constants=CONSTANTS, sizes=SIZES) as loaded:
        loaded.commit()
        loaded.maps.write("frontends", [(key, value)])

    with loader.load(instance, [every_map], constants=CONSTANTS, sizes=SIZES) as loaded:
        loaded.commit()
        assert {change.what for change in loaded.changes} == {"kept"}
        assert loaded.maps.dump("frontends") == {key: value}


def test_two_objects_share_their_maps(instance: Instance, every_map: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.o"
    other.write_bytes(every_map.read_bytes())
    with loader.load(instance, [every_map, other], constants=CONSTANTS, sizes=SIZES) as loaded:
        first, second = loaded.objects.values()
        with first.map("node") as a, second.map("node") as b:
            assert a.info.id == b.info.id


def test_commands_that_look_open_the_pins(instance: Instance, every_map: Path) -> None:
    with loader.load(instance, [every_map], constants=CONSTANTS, sizes=SIZES) as loaded:
        loaded.maps.write("services", [(3, Service("default", "web", "http", 80, 6, 2))])
    maps, abi = loader.open_maps(instance, every_map)
    try:
        assert maps.dump("services") == {3: Service("default", "web", "http", 80, 6, 2)}
        assert maps.get("drops", abi.constants["DROP_TOO_BIG"])[0] == Traffic(0, 0)
    finally:
        maps.close()


def test_constants_reach_the_program(instance: Instance, every_map: Path) -> None:
    def verdict(hz: int) -> int:
        with loader.load(instance, [every_map], constants={"hz": hz}, sizes=SIZES) as loaded:
            return loaded.program("every_map").test_run(bytes(64)).retval

    assert verdict(1) == 2, "drops has an entry 1: XDP_PASS"
    assert verdict(1000) == 1, "and none 1000: XDP_DROP"


def test_a_changed_layout_moves_entries_field_by_field(node: Node) -> None:
    with node.load(OLD) as old:
        old.commit()
    node.put((u32(1), u32(10, 20) + u64(30)), (u32(2), u32(11, 21) + u64(31)))

    with node.load(NEW) as new:
        change = next(c for c in new.changes if c.name == "seen")
        assert (change.what, change.copied) == ("migrated", 2)
        assert "layout changed" in str(change)
        new.commit()

    assert node.dump() == {
        u32(1): u64(0, 10) + u32(20, 0),
        u32(2): u64(0, 11) + u32(21, 0),
    }
    assert {pin.name for pin in node.instance.maps.iterdir()} == {"seen", "counts"}


def test_a_changed_size_keeps_entries(node: Node) -> None:
    with node.load(OLD) as old:
        old.commit()
    node.put(*((u32(i), bytes(16)) for i in range(10)))

    with node.load({**OLD, "entries": 100}) as new:
        new.commit()

    assert len(node.dump()) == 10
    with node.raw() as seen:
        assert seen.info.max_entries == 100


def test_a_map_does_not_shrink_below_what_is_in_it(node: Node) -> None:
    with node.load(OLD) as old:
        old.commit()
    node.put(*((u32(i), bytes(16)) for i in range(10)))

    with node.load({**OLD, "entries": 5}) as new:
        new.commit()
        assert "seen: size kept: more than 5 entries are in use" in " ".join(map(str, new.changes))

    assert len(node.dump()) == 10


def test_a_key_that_means_something_else_starts_empty_and_says_so(node: Node) -> None:
    with node.load(OLD) as old:
        old.commit()
    node.put((u32(1), bytes(16)))

    with node.load({**OLD, "key_field": "__u32 zone;"}) as new:
        new.commit()
        assert "nothing of it can be carried over" in " ".join(map(str, new.changes))

    assert node.dump() == {}


class TestUpgrade:
    """Old programs run until new ones take their place: nothing they write is lost."""

    def upgrade(self, node: Node, *, crash: bool = False) -> tuple[int, int]:
        """From OLD to NEW on a device. Gives the link's id before and after."""
        netlink.add_veth("eth0", "far")
        hook = attach.tc("eth0", netlink.device("eth0").ifindex)
        attacher = Attacher(node.instance)
        with node.load(OLD) as old:
            attacher.attach(hook, old.program("count"))
            old.commit()
            old.program("count").test_run(bytes(64))
            before = attacher.attached()[hook.name].id
            if crash:
                node.load(NEW).close()
            with node.load(NEW) as new:
                # The old program still runs: it counts, and adds an entry, after the copy.
                with node.raw() as seen:
                    seen.delete(u32(7))
                    seen.update(u32(8), u32(5, 6) + u64(0))
                old.program("count").test_run(bytes(64))
                assert attacher.attach(hook, new.program("count")) == "replaced"
                new.program("count").test_run(bytes(64))
                new.commit()
        return before, attacher.attached()[hook.name].id

    @pytest.mark.parametrize("crash", [False, True], ids=["at-once", "after-a-crash-half-way"])
    def test_entries_and_counts_of_the_window_arrive(self, node: Node, inside: str, crash: bool) -> None:
        before, after = self.upgrade(node, crash=crash)

        assert before == after, "the link is the same: no packet saw the hook empty"
        assert node.dump()[u32(8)] == u64(0, 5) + u32(6, 0)
        counted = node.dump("counts")[u32(0)]
        assert sum(int.from_bytes(counted[i : i + 8], "little") for i in range(0, len(counted), 8)) == 3
        assert {pin.name for pin in node.instance.maps.iterdir()} == {"seen", "counts"}

    def test_counts_survive_a_resize(self, node: Node, inside: str) -> None:
        with node.load(OLD) as old:
            old.commit()
            old.program("count").test_run(bytes(64), repeat=5)
            with node.load({**OLD, "counters": 8}) as new:
                old.program("count").test_run(bytes(64), repeat=2)
                new.program("count").test_run(bytes(64), repeat=3)
                new.commit()

        counted = node.dump("counts")[u32(0)]
        assert sum(int.from_bytes(counted[i : i + 8], "little") for i in range(0, len(counted), 8)) == 10


def test_a_refused_program_leaves_everything_as_it_was(node: Node) -> None:
    with node.load(OLD) as old:
        old.commit()
    node.put((u32(1), u32(10, 20) + u64(30)))
    before = node.dump()

    with pytest.raises(VerifierError, match="program count refused by the verifier"):
        node.load({**NEW, "verdict": "*(int *)(long)skb->len"})

    assert node.dump() == before
    assert {pin.name for pin in node.instance.maps.iterdir()} == {"seen", "counts"}


def test_taking_everything_down_leaves_no_folder(node: Node, inside: str, bpffs: Path) -> None:
    netlink.add_veth("eth0", "far")
    attacher = Attacher(node.instance)
    with node.load(OLD) as loaded:
        attacher.attach(attach.tc("eth0", netlink.device("eth0").ifindex), loaded.program("count"))
        loaded.commit()

    assert attacher.detach_all() == ["link tcx-ingress-eth0"]
    assert loader.unpin_maps(node.instance) == ["map counts", "map seen"]
    node.instance.remove()
    assert not (bpffs / "netaccel").exists()
