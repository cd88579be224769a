# SPDX-License-Identifier: Apache-2.0
"""Objects: opened, set, loaded, run; refusals told in a line."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from netaccel.datapath import libbpf
from netaccel.datapath.bpfobject import OBJECTS, BpfObject, same_program, verdict_line
from netaccel.errors import AbiError, DatapathError, VerifierError

pytestmark = pytest.mark.root

Build = Callable[..., Path]
HEAD = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char _license[] SEC("license") = "Dual BSD/GPL";
"""
KNOBS = (
    HEAD
    + """
struct knobs { __u64 wide; __u16 narrow; __u8 tiny; __u8 pad; __s32 delta; };
const volatile struct knobs knobs = { .wide = 1, .narrow = 2, .tiny = 3, .delta = -4 };
const volatile __u32 single = 7;

struct out { __u64 wide; __u64 narrow; __u64 tiny; __s64 delta; __u64 single; };

SEC("xdp") int show(struct xdp_md *ctx)
{
	struct out *out = (void *)(long)ctx->data;

	if ((void *)(out + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	out->wide = knobs.wide;
	out->narrow = knobs.narrow;
	out->tiny = knobs.tiny;
	out->delta = knobs.delta;
	out->single = single;
	return XDP_PASS;
}
"""
)
TWO = (
    HEAD
    + """
SEC("xdp") int good(struct xdp_md *ctx) { return XDP_PASS; }
SEC("xdp") int bad(struct xdp_md *ctx) { return *(char *)(long)ctx->data; }
"""
)


def shown(obj: BpfObject) -> list[int]:
    run = obj.program("show").test_run(bytes(64))
    assert run.retval == 2
    return [int.from_bytes(run.data[i : i + 8], "little", signed=True) for i in range(0, 40, 8)]


def test_constants_that_are_not_set_keep_the_source_s_values(build: Build) -> None:
    with BpfObject(build(KNOBS)) as obj:
        obj.load()
        assert shown(obj) == [1, 2, 3, -4, 7]


def test_constants_are_set_by_name(build: Build) -> None:
    with BpfObject(build(KNOBS)) as obj:
        obj.set_constant("knobs", {"wide": 2**63 - 1, "narrow": 65535, "delta": -(2**31)})
        obj.set_constant("single", 9)
        obj.load()
        assert shown(obj) == [2**63 - 1, 65535, 3, -(2**31), 9]


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("knobs", {"narrow": 65536}, ValueError, "constant knobs.narrow: 65536 does not fit __u16"),
        ("knobs", {"absent": 1}, AbiError, "knobs has no field absent"),
        ("absent", 1, AbiError, "variable absent: not in section .rodata"),
        ("knobs", 1, AbiError, "constant knobs is struct knobs, not an integer"),
    ],
)
def test_a_wrong_constant_is_refused(
    build: Build, name: str, value: object, error: type[Exception], message: str
) -> None:
    with BpfObject(build(KNOBS)) as obj, pytest.raises(error, match=message):
        obj.set_constant(name, value)  # type: ignore[arg-type]


def test_the_verifier_s_reason_comes_in_one_line_and_its_log_whole(build: Build) -> None:
    with BpfObject(build(TWO)) as obj, pytest.raises(VerifierError) as caught:
        obj.load()

    error = caught.value
    assert str(error) == ("program bad refused by the verifier: R1 offset is outside of the packet (EACCES)")
    assert error.errno == errno.EACCES
    assert "processed" in error.log
    assert len(error.log.splitlines()) > 3


def test_a_program_can_be_left_out(build: Build) -> None:
    with BpfObject(build(TWO)) as obj:
        obj.leave_out("bad")
        obj.load()
        assert obj.program("good").test_run(bytes(64)).retval == 2


def test_only_some_programs(build: Build) -> None:
    with BpfObject(build(TWO)) as obj:
        obj.only("good")
        obj.load()
        assert obj.wanted_programs() == ("good",)


@pytest.mark.parametrize("content", [None, b"", b"not an object"], ids=["absent", "empty", "text"])
def test_what_is_no_object_says_how_to_build_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.o"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(DatapathError, match=r"broken.o: can't be opened: .*make bpf") as caught:
        BpfObject(path)
    assert "\n" not in str(caught.value)


def test_absent_maps_and_programs_are_named(build: Build) -> None:
    with BpfObject(build(KNOBS, "knobs")) as obj:
        with pytest.raises(DatapathError, match=r"knobs.o has no map absent"):
            obj.resize("absent", 1)
        with pytest.raises(DatapathError, match=r"knobs.o has no program absent"):
            obj.leave_out("absent")


def test_a_packet_and_a_context_go_in_and_out(build: Build) -> None:
    text = HEAD + 'SEC("tc") int mark(struct __sk_buff *skb) { skb->mark = 42; return skb->ifindex; }'
    with BpfObject(build(text)) as obj:
        obj.load()
        context = bytearray(192)  # struct __sk_buff of linux/bpf.h: mark at 8, ifindex at 40
        context[40] = 1
        run = obj.program("mark").test_run(bytes(range(64)), bytes(context), repeat=10)

    assert run.retval == 1
    assert run.data == bytes(range(64))
    assert int.from_bytes(run.context[8:12], "little") == 42
    assert run.duration >= 0


def test_equal_programs_are_told_from_different_ones(build: Build) -> None:
    path = build(KNOBS)
    with BpfObject(path) as one, BpfObject(path) as two, BpfObject(path) as three:
        three.set_constant("single", 8)
        for obj in (one, two, three):
            obj.load()
        first, second, third = (obj.program("show") for obj in (one, two, three))
        assert same_program(first.info.id, second.fd)
        assert not same_program(first.info.id, third.fd), "another constant"
    assert not same_program(first.info.id, -1), "gone since"


def test_objects_of_the_package_load() -> None:
    """Every object that the package carries is accepted by this kernel's verifier."""
    names = sorted(path.stem for path in OBJECTS.glob("*.o"))
    assert "xdp_uplink" in names
    for name in names:
        with BpfObject.named(name) as obj:
            for map_name, definition in obj.map_definitions().items():
                if definition.max_entries > 1024:
                    obj.resize(map_name, 1024)
            obj.load()


def test_libbpf_says_nothing_on_standard_error(build: Build, capfd: pytest.CaptureFixture[str]) -> None:
    with BpfObject(build(TWO)) as obj, pytest.raises(VerifierError):
        obj.load()
    assert capfd.readouterr().err == ""
    assert libbpf.version() >= (1, 1)


def test_the_telling_line_of_a_log() -> None:
    log = """func#0 @0
0: R1=ctx() R10=fp0
; return *(char *)(long)ctx->data; @ test.c:7
0: (61) r1 = *(u32 *)(r1 +0)          ; R1_w=pkt(r=0)
1: (71) r0 = *(u8 *)(r1 +0)
invalid access to packet, off=0 size=1, R1(id=0,off=0,r=0)
R1 offset is outside of the packet
processed 2 insns (limit 1000000) max_states_per_insn 0 total_states 0 peak_states 0 mark_read 0
"""
    assert verdict_line(log) == "R1 offset is outside of the packet"
    assert verdict_line("") == ""
