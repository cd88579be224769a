# SPDX-License-Identifier: Apache-2.0
"""What an accelerated connection may take, and what happens where there is no room or no socket any more."""

from __future__ import annotations

import errno
import select
import socket
import struct
import subprocess
from collections.abc import Callable

import pytest
from accelpairs import cookie_of, paired
from programs import ROOT

from netaccel.datapath import libbpf, netlink
from netaccel.datapath.abi import Abi
from netaccel.datapath.btf import Btf
from netaccel.datapath.kernelbtf import KERNEL
from netaccel.errors import DatapathError
from tests.kernels import needs

pytestmark = [
    pytest.mark.root,
    needs.acceleration,
]
_BOUNDS = Abi.from_elf((ROOT / "netaccel/objects/accel_sockets.o").read_bytes()).enums["accel_bound"]
QUEUE_BYTES, QUEUE_MESSAGES = _BOUNDS["ACCEL_QUEUE_BYTES"], _BOUNDS["ACCEL_QUEUE_MESSAGES"]
SO_MEMINFO, RMEM_ALLOC, WMEM_QUEUED = 55, 0, 5


@pytest.fixture
def lo(inside: str) -> None:
    netlink.set_up("lo")
    for name in ("rmem", "wmem"):  # what TCP itself holds: less, or a byte at a time takes long
        netlink.set_sysctl(f"net.ipv4.tcp_{name}", "4096 65536 262144")


def fill(writer: socket.socket, size: int) -> int:
    """Bytes that are taken while nobody reads."""
    total = 0
    while True:
        try:
            total += writer.send(bytes(size))
        except BlockingIOError:  # on a busy machine acknowledgements come later, and make room
            if not select.select([], [writer], [], 0.1)[1]:
                return total


def drain(reader: socket.socket, total: int) -> None:
    got = 0
    reader.settimeout(10)
    while got < total:
        got += len(reader.recv(1 << 20))
    assert got == total


@pytest.mark.parametrize("size", [1, 64, 1024, 65_536])
def test_a_reader_that_stops_holds_no_more_than_the_bounds_beside_what_tcp_holds(lo: None, size: int) -> None:
    with paired() as world:
        plain, accelerated = (world.pair(socket.AF_INET, enrolled=on) for on in (False, True))
        most, took = fill(plain[0], size), fill(accelerated[0], size)
        end = world.programs.end(0)
        assert 0 < end.sent_bytes <= QUEUE_BYTES
        assert end.sent_messages <= QUEUE_MESSAGES
        assert end.pass_full + end.pass_unread > 0
        assert took - end.sent_bytes <= 1.5 * most, "TCP's own buffers grow as they like"
        drain(accelerated[1], took)


def test_what_has_no_room_in_the_map_stays_with_tcp(lo: None) -> None:
    with paired(accel_map=2) as world:
        world.pair(socket.AF_INET, enrolled=True)
        a, b = world.pair(socket.AF_INET, enrolled=False)
        assert set(world.enrol(a, b)) == {-errno.E2BIG}
        assert a.send(b"by TCP") == 6
        arrives(b)
        assert b.recv(100) == b"by TCP"
        assert world.redirected() == 0


def may_grow(send_buffer: int) -> None:
    """TCP's buffers are the kernel's defaults from now on, but for how far a send buffer may grow."""
    netlink.set_sysctl("net.ipv4.tcp_rmem", "4096 131072 6291456")
    netlink.set_sysctl("net.ipv4.tcp_wmem", f"4096 16384 {send_buffer}")


@pytest.fixture(scope="module")
def message_cost() -> int:
    """Bytes that a redirected message takes beside its own: a struct sk_msg, of a slab of powers of two."""
    return 1 << (Btf.from_raw(KERNEL.read_bytes()).struct("sk_msg").size - 1).bit_length()


def held(writer: socket.socket, reader: socket.socket) -> int:
    """Bytes that the kernel holds of what was written: unsent and unacknowledged, and not read."""
    unread, unsent = (
        struct.unpack_from("9I", end.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36))[index]
        for end, index in ((reader, RMEM_ALLOC), (writer, WMEM_QUEUED))
    )
    return unread + unsent


@pytest.mark.parametrize("size", [1, 1024, 65_536])
def test_a_reader_that_stops_costs_at_most_twice_what_it_costs_by_tcp(
    lo: None, message_cost: int, size: int
) -> None:
    """Buffers may grow to a quarter of the kernel's default: where TCP holds more, it is nearer to equal."""
    may_grow(1 << 20)
    with paired() as world:
        plain, accelerated = (world.pair(socket.AF_INET, enrolled=on) for on in (False, True))
        fill(plain[0], size)
        took = fill(accelerated[0], size)
        end = world.programs.end(0)
        assert 0 < end.sent_bytes <= held(*accelerated), "redirected bytes are among those unread"
        beside = end.sent_messages * message_cost
        assert beside <= QUEUE_MESSAGES * 1024
        assert held(*accelerated) + beside <= 2 * held(*plain)
        drain(accelerated[1], took)


@pytest.mark.parametrize(("size", "redirected"), [(QUEUE_BYTES, QUEUE_BYTES), (QUEUE_BYTES + 1, 0)])
def test_a_message_that_is_larger_than_the_bound_goes_by_tcp(lo: None, size: int, redirected: int) -> None:
    may_grow(1 << 20)
    with paired() as world:
        a, b = world.pair(socket.AF_INET, enrolled=True)
        assert a.send(bytes(size)) == size
        assert world.programs.end(0).sent_bytes == redirected
        drain(b, size)


def arrives(end: socket.socket) -> None:
    """On a busy machine that is a moment later."""
    assert select.select([end], [], [], 20)[0]


def answer(call: Callable[..., object], argument: object) -> object:
    """What a call gives, or the name of its error."""
    try:
        return call(argument)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


@pytest.mark.parametrize("redirected", [b"", b"unread"])
def test_a_socket_that_is_destroyed_resets_its_peer(lo: None, redirected: bytes) -> None:
    with paired() as world:
        found = []
        for enrolled in (False, True):
            a, b = world.pair(socket.AF_INET, enrolled=enrolled)
            a.send(b"warm")
            arrives(b)
            b.recv(100)
            a.send(redirected)
            port = str(b.getsockname()[1])
            done = subprocess.run(
                ["ss", "-K", "sport", "=", port], capture_output=True, text=True, check=True
            )
            if port not in done.stdout:
                pytest.skip("this kernel destroys no sockets")
            arrives(a)
            told = [
                answer(a.recv, 10),
                answer(a.send, b"late"),
                answer(b.recv, 10),
                answer(b.send, b"x"),
            ]
            found.append(told)
        assert found[0] == found[1]


@pytest.mark.parametrize("at", range(1, 8))
def test_a_socket_that_closes_under_the_walk_hides_no_other(
    lo: None, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    with paired() as world:
        ends = {cookie_of(end): end for _ in range(4) for end in world.pair(socket.AF_INET, enrolled=True)}
        walked: list[bytes] = []
        following = libbpf.map_next_key

        def closing(fd: int, key: bytes | None, size: int) -> bytes | None:
            if len(walked) == at and key is not None:
                ends.pop(int.from_bytes(key, "little")).close()
            found = following(fd, key, size)
            walked.append(found or b"")
            return found

        monkeypatch.setattr(libbpf, "map_next_key", closing)
        assert world.programs.members() >= ends.keys()
        assert len(ends) == 7


def test_a_walk_without_an_end_is_given_up(lo: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with paired(accel_map=16) as world:
        monkeypatch.setattr(libbpf, "map_next_key", lambda *_: bytes(8))
        with pytest.raises(DatapathError, match="faster than it can be read"):
            world.programs.members()
