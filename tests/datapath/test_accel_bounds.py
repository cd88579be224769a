# SPDX-License-Identifier: Apache-2.0
"""What an accelerated connection may take, and what happens where there is no room or no socket any more."""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Callable

import pytest
from accelpairs import paired

from netaccel.datapath import netlink
from tests.kernels import needs

pytestmark = [
    pytest.mark.root,
    needs.acceleration,
]
QUEUE_BYTES, QUEUE_MESSAGES = 256 * 1024, 256  # abi.h's


@pytest.fixture
def lo(inside: str) -> None:
    netlink.set_up("lo")
    for name in ("rmem", "wmem"):  # what TCP itself holds: less, or a byte at a time takes long
        netlink.set_sysctl(f"net.ipv4.tcp_{name}", "4096 65536 262144")


def fill(writer: socket.socket, size: int) -> int:
    """Bytes that are taken while nobody reads."""
    total = 0
    try:
        while True:
            total += writer.send(bytes(size))
    except BlockingIOError:
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
        assert b.recv(100) == b"by TCP"
        assert world.redirected() == 0


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
            b.recv(100)
            a.send(redirected)
            port = str(b.getsockname()[1])
            done = subprocess.run(
                ["ss", "-K", "sport", "=", port], capture_output=True, text=True, check=True
            )
            if port not in done.stdout:
                pytest.skip("this kernel destroys no sockets")
            told = [
                answer(a.recv, 10),
                answer(a.send, b"late"),
                answer(b.recv, 10),
                answer(b.send, b"x"),
            ]
            found.append(told)
        assert found[0] == found[1]
