# SPDX-License-Identifier: Apache-2.0
"""The lab's server, as the last pod of a Service: how it ends."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import sys

import pytest

from netaccel.cluster.ports import free_ports
from netaccel.lab.handle import wait_for
from netaccel.lab.server import digest

SIZE = 2_000_000  # bytes: sockets hold them


def asked(port: int) -> http.client.HTTPConnection | None:
    """A client that has asked for all and reads nothing yet; None while nobody listens."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        client.request("GET", f"/bytes?n={SIZE}", headers={"Connection": "close"})
    except ConnectionRefusedError:
        client.close()
        return None
    return client


def test_it_ends_when_clients_have_what_they_asked_for() -> None:
    port = free_ports().api  # none that a client is given before the server has it
    command = [sys.executable, "-m", "netaccel.lab.server", "--http", str(port), "--drain", "0"]
    with subprocess.Popen(command) as server:
        try:
            client = wait_for(lambda: asked(port), "a connection", 60)
            assert client is not None
            answer = client.getresponse()
            server.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                server.wait(1)
            assert hashlib.sha256(answer.read()).hexdigest() == digest(SIZE)
            assert server.wait(60) == 0
            client.close()
        finally:
            server.kill()
