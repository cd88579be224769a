# SPDX-License-Identifier: Apache-2.0
"""From the kernel's connections to flows that are the stack's: which, how old, in what state."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from test_observe import HZ, NOW, Tables, flow_pair

from netaccel.config import Timeouts
from netaccel.datapath.abi import Abi
from netaccel.datapath.bpfobject import OBJECTS
from netaccel.datapath.conntrack import SEEN_REPLY, Connection, Way
from netaccel.model.address import parse_address
from netaccel.observe.conntrack import Expiry, Kind, count_flows, other_half, sweep
from netaccel.observe.takeover import (
    Codes,
    flows_of,
    forget_ended,
    forget_gone,
    forget_unknown,
    import_flows,
    is_fresh,
)
from netaccel.records import Backend, Flow, FlowKey, Frontend, FrontendKey

ABI = Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes())
CODES = Codes(Timeouts(), ABI.constants, HZ)
C = ABI.constants
CLIENT, NODE, BACKEND, VIP = (
    bytes(parse_address(a)) for a in ("198.51.100.7", "192.0.2.10", "10.244.1.2", "10.96.0.10")
)
FRONTEND = Frontend(7, 0, C["FRONTEND_NODE_PORT"], 0, 0, 0, 0, 0, 0)
FRONTENDS = {FrontendKey(a, p, proto): FRONTEND for a, p in ((NODE, 30080), (VIP, 80)) for proto in (6, 17)}


class FlowTables(Tables):
    """With room, and additions that spare what is there."""

    room = 1000

    def capacity(self, name: str) -> int:
        return self.room

    def add(self, name: str, entries: Any) -> int:
        table = self.tables.setdefault(name, {})
        fresh = {key: value for key, value in entries if key not in table}
        table.update(fresh)
        return len(fresh)


def connection(proto: int = 6, **facts: Any) -> Connection:
    """Client → node port, masqueraded as the node's port 61000."""
    made = Connection(
        proto,
        Way(CLIENT, NODE, 4000, 30080),
        Way(BACKEND, NODE, 8080, 61000),
        SEEN_REPLY,
        1 << 20,
        "ESTABLISHED" if proto == 6 else "",
    )
    return made._replace(**facts)


def flows(*connections: Connection) -> dict[FlowKey, Flow]:
    return dict(flows_of(connections, FRONTENDS, CODES, NOW))


def test_a_flow_has_two_halves_that_name_each_other() -> None:
    (key, flow), (reverse_key, reverse) = flows(connection()).items()
    assert key == FlowKey(CLIENT, NODE, 4000, 30080, 6, C["FLOW_FORWARD"])
    assert (flow.new_src, flow.new_dst, flow.new_sport, flow.new_dport) == (NODE, BACKEND, 61000, 8080)
    assert other_half(key, flow) == reverse_key
    assert other_half(reverse_key, reverse) == key
    assert {flow.flags, reverse.flags} == {C["FLOW_STACK"]}
    assert (flow.backend, flow.service, flow.path) == (0, 7, C["PATH_STACK"])


@pytest.mark.parametrize(
    ("state", "wanted"),
    [
        ("SYN_SENT", "FLOW_SYN"),
        ("SYN_RECV", "FLOW_SYN"),
        ("ESTABLISHED", "FLOW_ESTABLISHED"),
        ("FIN_WAIT", "FLOW_FIN_FORWARD"),
        ("CLOSE_WAIT", "FLOW_FIN_FORWARD"),
        ("LAST_ACK", "FLOW_CLOSED"),
        ("TIME_WAIT", "FLOW_CLOSED"),
        ("CLOSE", "FLOW_RESET"),
    ],
)
def test_states_of_tcp(state: str, wanted: str) -> None:
    assert {flow.state for flow in flows(connection(state=state)).values()} == {C[wanted]}


@pytest.mark.parametrize(("status", "wanted"), [(SEEN_REPLY, "FLOW_ESTABLISHED"), (0, "FLOW_UNREPLIED")])
def test_states_of_udp(status: int, wanted: str) -> None:
    assert {flow.state for flow in flows(connection(17, status=status)).values()} == {C[wanted]}


@pytest.mark.parametrize(
    ("proto", "left", "ends_in"), [(6, 432_000, 21_600), (6, 300, 300), (17, 120, 120), (17, 0, 0)]
)
def test_it_ends_with_the_kernels_entry_or_before(proto: int, left: int, ends_in: int) -> None:
    expiry = Expiry(Timeouts(), C, HZ)
    grace = 5
    for key, flow in flows(connection(proto, left=left)).items():
        assert not expiry.expired(key, flow, NOW + (ends_in + grace) * HZ)
        assert expiry.expired(key, flow, NOW + (ends_in + grace) * HZ + 1)


def test_whose_flows_are_taken() -> None:
    elsewhere = connection(original=Way(CLIENT, NODE, 4000, 22))
    untranslated = connection(reply=Way(NODE, CLIENT, 30080, 4000))
    assert flows(elsewhere) == {}
    assert len(flows(untranslated)) == 2, "a server of the node had the port"
    assert flows(untranslated._replace(status=0)) == {}, "nobody ever answered"


def test_an_answer_to_a_port_that_is_a_frontends() -> None:
    out = Connection(
        6, Way(VIP, CLIENT, 5000, 443), Way(CLIENT, NODE, 443, 30080), SEEN_REPLY, 99, "ESTABLISHED"
    )
    ((key, flow),) = flows(out).items()
    assert key == FlowKey(CLIENT, NODE, 443, 30080, 6, C["FLOW_FORWARD"])
    assert (flow.new_src, flow.new_dst) == (key.src, key.dst), "what becomes of it is the stack's matter"


def test_import_spares_flows_of_ours_and_counts_its_own() -> None:
    ours = flow_pair(ABI, 4000, "FLOW_ESTABLISHED", (0, 0))
    new = flows(connection())
    (key, _), (reverse_key, _) = new.items()
    maps = FlowTables(flows4={key: next(iter(ours.values()))}, flows6={})
    assert import_flows(maps, ABI, new.items()) == (1, 0)
    assert maps.tables["flows4"] == {key: next(iter(ours.values())), reverse_key: new[reverse_key]}
    census = sweep(maps, ABI, Expiry(Timeouts(), C, HZ), NOW, {})
    assert census.evictions["flows4"] == 0
    assert (census.open, census.stack) == (1, 0)
    assert import_flows(maps, ABI, new.items()) == (0, 0), "a second time nothing is new"


def test_what_a_program_took_for_the_stacks_is_known_better_after_an_import() -> None:
    new = flows(connection(17))
    key, flow = next(iter(new.items()))
    guess = flow._replace(new_src=key.src, new_dst=key.dst, seen=NOW + 3)
    maps = FlowTables(flows4={key: guess}, flows6={})
    import_flows(maps, ABI, new.items())
    assert maps.tables["flows4"][key] == flow._replace(seen=NOW + 3)


def test_an_import_leaves_room_and_says_what_it_left_out() -> None:
    maps = FlowTables(flows4={}, flows6={})
    maps.room = 8
    many = [
        connection(original=Way(CLIENT, NODE, port, 30080), reply=Way(BACKEND, NODE, 8080, port))
        for port in range(5)
    ]
    assert import_flows(maps, ABI, flows(*many).items()) == (6, 4)


def test_guesses_that_the_kernel_has_nothing_of_are_forgotten() -> None:
    new = flows(connection(17))
    (key, flow), _ = new.items()
    guess = flow._replace(new_src=key.src, new_dst=key.dst, new_sport=key.sport, new_dport=key.dport)
    other = key._replace(sport=4001)
    maps = FlowTables(flows4={key: guess, other: guess._replace(new_sport=4001)}, flows6={})
    assert forget_unknown(maps, ABI, CODES, {key}) == 1
    assert maps.tables["flows4"].keys() == {key}


def test_flows_that_the_kernel_knows_no_more_are_forgotten_and_ours_are_not() -> None:
    ended, lives = flows(connection()), flows(connection(17))
    ours = flow_pair(ABI, 4002, "FLOW_ESTABLISHED", (0, 0))
    maps = FlowTables(flows4={**ended, **lives, **ours}, flows6={})
    assert forget_ended(maps, ABI, CODES, lives.keys()) == 1
    assert maps.tables["flows4"].keys() == {**lives, **ours}.keys()


def test_a_udp_flow_whose_backend_is_gone_is_forgotten_tcp_goes_on() -> None:
    there = Backend(BACKEND, 8080, 17, C["BACKEND_ACTIVE"], 0, 0, 0, 7, 1)
    udp, tcp = flows(connection(17)), flows(connection())
    maps = FlowTables(flows4={**udp, **tcp}, flows6={}, backends={1: there})
    assert forget_gone(maps, ABI, CODES) == 0
    maps.tables["backends"] = {1: there._replace(state=C["BACKEND_FREE"])}
    assert forget_gone(maps, ABI, CODES) == 1
    assert maps.tables["flows4"].keys() == tcp.keys()


@pytest.mark.parametrize(
    ("flags", "fresh"), [(None, True), ("", False), ("FRONTEND_DRAIN", True), ("FRONTEND_TAKEOVER", True)]
)
def test_when_the_stack_has_served_until_now(flags: str | None, fresh: bool) -> None:
    table = {} if flags is None else {1: FRONTEND._replace(flags=C[flags] if flags else 0)}
    assert is_fresh(FlowTables(frontends=table), CODES) == fresh


def test_flows_are_counted_by_whose_they_are() -> None:
    ours, stack = 0, C["FLOW_STACK"]
    forward, reverse = C["FLOW_FORWARD"], C["FLOW_REVERSE"]
    kinds = Counter(
        {
            Kind(forward, C["FLOW_ESTABLISHED"], ours): 3,
            Kind(reverse, C["FLOW_ESTABLISHED"], ours): 3,
            Kind(forward, C["FLOW_CLOSED"], ours): 5,
            Kind(forward, C["FLOW_RESET"], stack): 5,
            Kind(forward, C["FLOW_FIN_REVERSE"], stack | 1): 2,
        }
    )
    assert count_flows(kinds, ABI) == (3, 2)
