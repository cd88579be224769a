# SPDX-License-Identifier: Apache-2.0
"""The bench's program that asks and answers finds wrong bytes; its ratios are those of rounds."""

import socket
import struct

import pytest

from bench import accel, pingpong
from bench.pingpong import Load, Window

HERE = list  # a place: the command runs as it is


def window(rate: float) -> Window:
    return Window(1, 1, 1.0, int(rate), 0, 0, 1, 1, 1)


def said(path: str, data: bytes) -> None:
    """Send it; back when the server has read all and closed."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass


def opening(size: int) -> bytes:
    """Of messages one way."""
    return b"\xff" + struct.pack("=III", size, 0, 1)


@pytest.mark.parametrize("mode", ["ask", "send", "connect"])
def test_every_mode_is_measured_without_errors(tmp_path, mode):
    path = str(tmp_path / "socket")
    with pingpong.serving(HERE, path, once=mode == "connect") as server:
        found = pingpong.drive(HERE, path, server, Load(mode, 3, (1, 100_000), 0.02, 0.05))
    assert [one.size for one in found] == [1, 100_000]
    assert all(one.transactions and one.server and not one.errors for one in found)


def test_the_pattern_is_taken_for_right(tmp_path):
    path = str(tmp_path / "socket")
    with pingpong.serving(HERE, path):
        said(path, opening(3) + bytes(range(3)))


@pytest.mark.parametrize("message", [b"\1\1\2", b"\0\1\3"])
def test_a_wrong_byte_is_an_error(tmp_path, message):
    path = str(tmp_path / "socket")
    with pytest.raises(RuntimeError, match="errors"), pingpong.serving(HERE, path):
        said(path, opening(3) + message)


def test_a_ratio_is_the_median_of_the_rounds():
    cell = {"socket": [window(30), window(200), window(10)], "plain": [window(10), window(100), window(10)]}
    assert accel.ratio(cell, "socket", "plain", accel.rate) == 2.0


def test_the_worst_cell_is_named_and_judged():
    cells = {
        accel.Cell("p", 64, 1): {"socket": [window(100)], "plain": [window(100)]},
        accel.Cell("p", 65536, 8): {"socket": [window(90)], "plain": [window(100)]},
    }
    found = accel.worst("least", cells, "socket", "plain")
    assert found.name == "least, 64 KiB × 8"
    assert found.ok is False
