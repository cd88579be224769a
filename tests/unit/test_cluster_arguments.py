# SPDX-License-Identifier: Apache-2.0
"""Command lines of a control plane, its ports, and its audit log."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from netaccel.cluster import arguments, audit
from netaccel.cluster.arguments import Keys, Options, Ports
from netaccel.cluster.pki import Pair
from netaccel.cluster.ports import free_ports

PORTS = Ports(api=6443, etcd=2379, etcd_peer=2380, controller_manager=10257, scheduler=10259)
PAIR = Pair(Path("/pki/a.crt"), Path("/pki/a.key"))
KEYS = Keys(Path("/pki/ca.crt"), Path("/pki/ca.key"), Path("/pki/sa.key"), Path("/pki/sa.pub"), PAIR, PAIR)


def api_server(options: Options) -> dict[str, str]:
    line = arguments.api_server(options, KEYS, PORTS, None)
    return dict(word.removeprefix("--").partition("=")[::2] for word in line)


def test_one_address_is_listened_on_alone_several_are_all() -> None:
    assert api_server(Options(addresses=("172.30.0.1",)))["bind-address"] == "172.30.0.1"
    assert api_server(Options(addresses=("172.30.0.1", "fd00:30::1")))["bind-address"] == "::"


def test_without_an_advertised_address_the_kubernetes_service_has_no_endpoint() -> None:
    assert api_server(Options())["endpoint-reconciler-type"] == "none"
    advertised = api_server(Options(advertised="172.30.0.1"))
    assert advertised["endpoint-reconciler-type"] == "lease"
    assert advertised["advertise-address"] == "172.30.0.1"


def test_services_have_addresses_of_both_families() -> None:
    assert api_server(Options())["service-cluster-ip-range"] == "10.96.0.0/16,fd00:10:96::/112"


def test_feature_gates_are_told_to_all_who_know_them() -> None:
    options = Options(feature_gates={"WatchList": False, "Other": True})
    for line in (
        arguments.api_server(options, KEYS, PORTS, None),
        arguments.controller_manager(options, KEYS, PORTS, Path("/k")),
        arguments.scheduler(options, PORTS, Path("/k")),
    ):
        assert "--feature-gates=WatchList=false,Other=true" in line


def test_further_arguments_come_last_so_that_they_win() -> None:
    line = arguments.api_server(Options(arguments=("--v=4",)), KEYS, PORTS, None)
    assert line[-1] == "--v=4"


def test_free_ports_differ_and_nobody_listens_on_them() -> None:
    found = free_ports()
    assert len(set(found)) == len(found)
    for port in found:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", port))


def test_the_api_servers_port_can_be_given() -> None:
    assert free_ports(6443).api == 6443


def event(**fields: object) -> str:
    user = {"username": "system:serviceaccount:netaccel:agent"}
    return json.dumps({"user": user, "verb": "get", "requestURI": "/", **fields})


def test_a_request_is_told_as_rbac_would_write_it(tmp_path: Path) -> None:
    concerned = {
        "apiGroup": "netaccel.io",
        "resource": "nodestates",
        "subresource": "status",
        "name": "n1",
    }
    log = tmp_path / "audit.log"
    log.write_text(event(verb="patch", objectRef=concerned, responseStatus={"code": 403}) + "\n")
    (request,) = audit.read(log)
    assert (request.user, request.verb) == ("system:serviceaccount:netaccel:agent", "patch")
    assert (request.group, request.resource) == ("netaccel.io", "nodestates/status")
    assert (request.namespace, request.name, request.code) == ("", "n1", 403)


def test_what_concerns_no_resource_has_its_path(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(event(requestURI="/version", responseStatus={"code": 200}) + "\n")
    (request,) = audit.read(log)
    assert (request.resource, request.path) == ("", "/version")


def test_who_is_impersonated_is_who_asks(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    log.write_text(event(impersonatedUser={"username": "alice"}) + "\n")
    assert [request.user for request in audit.read(log)] == ["alice"]


def test_a_line_that_is_half_written_waits(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    whole = event() + "\n"
    log.write_text(whole + whole[:20])
    assert len(list(audit.read(log))) == 1


def test_there_is_no_log_before_the_first_request(tmp_path: Path) -> None:
    assert list(audit.read(tmp_path / "absent")) == []
