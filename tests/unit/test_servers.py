# SPDX-License-Identifier: Apache-2.0
"""Which API server is asked, and by which name it may prove itself."""

from __future__ import annotations

import pytest

from netaccel.apiserver.servers import Rota, Server, check, servers
from netaccel.config import HostPort, load
from netaccel.errors import ConfigError

URL = "https://10.96.0.1:443"
TWO = (HostPort("192.168.0.10", 6443), HostPort("fd00::10", 6443))


def test_without_addresses_it_is_the_kubeconfigs_server() -> None:
    assert servers("https://api.example:6443/prefix", "", ()) == (
        Server("https://api.example:6443/prefix", ("api.example",)),
    )


def test_addresses_replace_host_and_port_and_keep_the_path() -> None:
    assert [one.url for one in servers("https://api.example/k8s/c1", "", TWO)] == [
        "https://192.168.0.10:6443/k8s/c1",
        "https://[fd00::10]:6443/k8s/c1",
    ]


def test_an_address_may_be_proved_by_itself_or_by_the_name_that_it_replaces() -> None:
    assert [one.names for one in servers(URL, "", TWO)] == [
        ("192.168.0.10", "10.96.0.1"),
        ("fd00::10", "10.96.0.1"),
    ]


def test_a_server_name_of_the_kubeconfig_is_the_only_one() -> None:
    assert {one.names for one in servers(URL, "kubernetes.default.svc", TWO)} == {("kubernetes.default.svc",)}


def rota(count: int, node: str = "") -> Rota:
    return Rota([Server(f"https://{number}", ("a", "b")) for number in range(count)], node)


def test_the_one_that_works_is_kept() -> None:
    turn = rota(3)
    first = turn.current
    assert turn.current == first
    turn.move_on(first)
    second = turn.current
    assert second != first
    turn.move_on(first)  # whoever is late says nothing new
    assert turn.current == second


def test_after_the_last_comes_the_first() -> None:
    turn = rota(2)
    seen = []
    for _ in range(4):
        seen.append(turn.current.url)
        turn.move_on(turn.current)
    assert seen[:2] == seen[2:]
    assert len(set(seen)) == 2


def test_nodes_begin_with_different_servers() -> None:
    assert len({rota(3, f"node-{number}").current.url for number in range(30)}) == 3


def test_the_name_that_fits_is_remembered() -> None:
    turn = rota(1)
    assert turn.name(turn.current) == "a"
    assert turn.next_name(turn.current)
    assert turn.name(turn.current) == "b"
    assert not turn.next_name(turn.current)
    assert turn.name(turn.current) == "a"


def test_in_place_of_kube_proxy_a_pod_needs_the_servers_own_addresses() -> None:
    settings = load({"node_name": "n", "kube_proxy": "instead"}, {})
    with pytest.raises(ConfigError, match="kubeProxy: instead needs apiServers"):
        check(settings, in_pod=True)
    check(settings, in_pod=False)
    check(load({"node_name": "n", "kube_proxy": "instead", "api_servers": "10.0.0.1:6443"}, {}), in_pod=True)
    check(load({"node_name": "n", "kube_proxy": "beside"}, {}), in_pod=True)
