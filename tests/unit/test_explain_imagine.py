# SPDX-License-Identifier: Apache-2.0
"""Files that never ran: what explain puts in the place of what a cluster would have given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from netaccel.explain.ends import parse_end
from netaccel.explain.imagine import imagine
from netaccel.explain.model import Model
from netaccel.explain.view import party_text
from netaccel.explain.walk import Walker
from netaccel.model.event import Upsert
from netaccel.model.snapshot import World
from netaccel.sources.parse import Parsed, read


def pod(name: str, ports: Sequence[dict[str, Any]] = (), **more: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "a", "ports": list(ports)}], **more.pop("spec", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name.partition("-")[0]}},
        "spec": spec,
        **more,
    }


def service(**spec: Any) -> dict[str, Any]:
    ports = [{"port": 80, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": ports, **spec},
    }


HTTP, OTHER = ({"name": "http", "containerPort": port} for port in (8080, 9090))


def world(*manifests: dict[str, Any]) -> World:
    found = World()
    for manifest in manifests:
        for outcome in read(manifest):
            assert isinstance(outcome, Parsed), outcome
            found.apply(Upsert(outcome.key, outcome.object, 0.0))
    return found


def ways(found: World, destination: str) -> list[str]:
    model = Model(found)
    answer = Walker(model, {"model": model}).walk(parse_end("pod:client"), parse_end(destination))
    questions = [one.halves[1].question for one in answer.courses]
    return [party_text(one.destination, one.protocol, one.port) for one in questions]


def test_pods_that_never_ran_can_be_asked_about() -> None:
    found = world(pod("client"), pod("web-1", [HTTP]))
    assert imagine(found) == [
        "2 Pods without a node or an address in the files: imaginary ones stand for them,"
        " from 198.18.0.0/16 and 2001:2::/64"
    ]
    assert ways(found, "pod:web-1:80") == [
        "pod:default/web-1 (198.18.0.2:80/TCP)",
        "pod:default/web-1 ([2001:2::2]:80/TCP)",
    ]


def test_a_service_leads_to_the_pods_that_it_selects_at_their_own_ports() -> None:
    found = world(pod("client"), pod("web-1", [HTTP]), pod("web-2", [OTHER]), pod("web-3"), service())
    assert imagine(found)[1] == "1 Service without a cluster IP in the files: imaginary ones stand for them"
    assert [way for way in ways(found, "service:web:80") if "." in way] == [
        "pod:default/web-1 (198.18.0.2:8080/TCP)",
        "pod:default/web-2 (198.18.0.3:9090/TCP)",
    ]


def test_what_the_files_say_stays() -> None:
    ran = pod("client", spec={"nodeName": "node-1"}, status={"podIPs": [{"ip": "10.0.0.1"}]})
    headless = service(clusterIP="None")
    found = world(ran, headless)
    before = found.pods(), found.service(next(iter(found.services())))
    assert imagine(found) == []
    assert (found.pods(), found.service(next(iter(found.services())))) == before
