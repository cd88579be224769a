# SPDX-License-Identifier: Apache-2.0
"""No byte lost, reordered, doubled or another's, whatever happens to acceleration meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench import chaos
from bench.chaosdriver import Driver, Ground
from netaccel.datapath import netlink
from netaccel.datapath.plane import kernel_version

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(kernel_version() < (6, 12), reason="acceleration's programs load from 6.12 on"),
]

CONNECTIONS, AT_ONCE = 800, 100


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
