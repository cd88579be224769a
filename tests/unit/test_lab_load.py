# SPDX-License-Identifier: Apache-2.0
"""The lab's load of requests and responses: what it counts, and how it is ended."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from netaccel.cluster.ports import free_ports
from netaccel.lab.handle import wait_for

COMMAND = (sys.executable, "-m", "netaccel.lab.load")


@pytest.fixture
def port() -> Iterator[int]:
    """Where a server of it listens."""
    number = free_ports().api  # none that a client is given before the server has it
    server = subprocess.Popen([*COMMAND, "--listen", str(number)])

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", number)) == 0

    try:
        wait_for(listens, "the server", 60)
        yield number
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_it_counts_what_it_sent_and_got(port: int, host: str) -> None:
    options = ("--connect", f"{host}:{port}", "--size", "1000", "--seconds", "0.2", "--window", "0.1")
    done = subprocess.run(
        [*COMMAND, *options], check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    *windows, totals = map(json.loads, done.stdout.splitlines())
    assert all(line["rate"] > 0 for line in windows)
    assert totals["sent"] == totals["received"] == 1000 * totals["exchanges"] > 0


def test_a_line_ends_it_and_the_connection_stays_until_the_end_of_the_input(port: int) -> None:
    command = [*COMMAND, "--connect", f"127.0.0.1:{port}", "--seconds", "60", "--window", "0.1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        assert "rate" in json.loads(client.stdout.readline())
        client.stdin.write("stop\n")
        client.stdin.flush()
        for line in client.stdout:
            if "sent" in json.loads(line):
                break
        assert client.poll() is None, "the connection is open"
        client.stdin.close()
        assert client.wait(60) == 0
