# SPDX-License-Identifier: Apache-2.0
"""No byte lost, reordered, doubled or another's, whatever happens to acceleration meanwhile."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench import chaos
from bench.chaosdriver import Driver, Ground
from netaccel.datapath import netlink
from netaccel.datapath.accel import selftest
from tests.kernels import needs

pytestmark = [
    pytest.mark.root,
    needs.acceleration,
]

CONNECTIONS, SPLICED, AT_ONCE = 800, 200, 100


@pytest.fixture
def two(netns: str) -> Iterator[Ground]:
    """Two namespaces with a wire between them."""
    other = f"{netns}b"
    netlink.create_namespace(other)
    try:
        with netlink.inside_namespace(netns):
            netlink.add_veth("wire", "wire", other)
        for number, name in enumerate((netns, other), 1):
            with netlink.inside_namespace(name):
                netlink.set_sysctl("net.ipv6.conf.all.accept_dad", 0)
                netlink.set_sysctl("net.ipv6.conf.wire.accept_dad", 0)
                netlink.set_up("lo")
                netlink.set_up("wire")
                netlink.add_address("wire", f"10.99.0.{number}/24")
                netlink.add_address("wire", f"fd00:99::{number}/64")
        yield Ground({name: (f"10.99.0.{i}", f"fd00:99::{i}") for i, name in enumerate((netns, other), 1)})
    finally:
        netlink.delete_namespace(other)


def place(namespace: str) -> chaos.Place:
    def command(words: Sequence[str]) -> list[str]:
        return ["nsenter", f"--net=/run/netns/{namespace}", *words]

    return command


@pytest.mark.parametrize("address", ["10.99.0.2", "fd00:99::2", "127.0.0.1"])
def test_chaos(two: Ground, bpffs: Path, tmp_path: Path, address: str) -> None:
    client, server = two.namespaces
    if address == "127.0.0.1":
        client = server
    with chaos.load(place(server), place(client), address, 7100, tmp_path) as load:
        driver = Driver(bpffs, two)
        try:
            load.drive(CONNECTIONS, AT_ONCE)
            outcome = load.outcome()
        finally:
            driver.end()
    print(driver.counts, driver.passes, outcome.client, outcome.server, outcome.redirected / outcome.sent)
    assert not outcome.bad, outcome.complaints
    assert outcome.client.connections == CONNECTIONS
    missing = chaos.unaccounted(outcome.records, driver.redirected)
    assert not missing, "\n".join(missing[:10])
    assert outcome.redirected > outcome.sent / 10
    assert driver.counts["evictions"]


SPLICER = """
import os, select, socket, sys, threading

def wait(way, event):
    poll = select.poll()
    poll.register(way, event)
    poll.poll()

def give_back(way):
    way.setblocking(False)
    out, into = os.pipe()
    while True:
        try:
            taken = os.splice(way.fileno(), into, 1 << 16)
        except BlockingIOError:
            wait(way, select.POLLIN)
            continue
        if not taken:
            break
        while taken:
            try:
                taken -= os.splice(out, way.fileno(), taken)
            except BlockingIOError:
                wait(way, select.POLLOUT)
    way.shutdown(socket.SHUT_WR)
    way.close()
    os.close(out)
    os.close(into)

listener = socket.create_server(("10.99.0.2", int(sys.argv[1])), backlog=1000)
print("ready", flush=True)
while True:
    threading.Thread(target=give_back, args=(listener.accept()[0],), daemon=True).start()
"""


def test_readers_that_splice(two: Ground, bpffs: Path, tmp_path: Path) -> None:
    """Accelerated only where the kernel's splice(2) sees redirected bytes, as the agent has it."""
    client, server = two.namespaces
    works = all(check.ok for check in selftest.run() if check.name == "splice")
    command = place(server)([sys.executable, "-c", SPLICER, "7101"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as splicer:
        try:
            assert splicer.stdout
            assert splicer.stdout.readline() == "ready\n"
            with chaos.load(None, place(client), "10.99.0.2", 7101, tmp_path) as load:
                driver = Driver(bpffs, two, spared=0 if works else 7101)
                try:
                    load.drive(SPLICED, AT_ONCE)
                    outcome = load.outcome()
                finally:
                    driver.end()
        finally:
            splicer.kill()
    assert not outcome.bad, outcome.complaints
    assert outcome.client.clean == SPLICED
    assert bool(driver.counts["promotions"]) == works
