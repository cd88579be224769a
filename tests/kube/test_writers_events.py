# SPDX-License-Identifier: Apache-2.0
"""Events at a real API server, as kubectl describe shows them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from writers import Kubectl, connected, eventually, get, running

from netaccel.apiserver.connection import Connection
from netaccel.cluster.controlplane import ControlPlane
from netaccel.model.event import ObjectKey
from netaccel.writers.events import CONTROLLER, EventWriter
from netaccel.writers.journal import Limits
from netaccel.writers.notices import Notice, Scope

Apply = Callable[..., str]


class Agent:
    """One agent's writer, its notices and its clock."""

    def __init__(
        self,
        api: Connection,
        node: str = "node-1",
        scope: Scope = Scope.NODE,
        limits: Limits | None = None,
    ) -> None:
        self.notices: list[Notice] = []
        self.now = 0.0
        self.writer = EventWriter(
            api, node, lambda: self.notices, scope=scope, limits=limits, clock=lambda: self.now
        )

    async def tells(self, *notices: Notice) -> float:
        self.notices = list(notices)
        return await self.writer.step()


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    async with connected(control_plane.admin) as connection:
        yield connection


@pytest.fixture
def web(apply: Apply, namespace: str, kubectl: Kubectl) -> Notice:
    """A Service, and what is to be told of it."""
    apply(service("web"), namespace)
    uid = get(kubectl, "-n", namespace, "service", "web")["metadata"]["uid"]
    return Notice(ObjectKey("Service", namespace, "web"), "Rejected", "no room in map", Scope.NODE, uid)


def service(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": [{"port": 80}]},
    }


def said(notice: Notice, **changes: Any) -> Notice:
    fields = ("key", "reason", "message", "scope", "uid")
    return Notice(**{name: getattr(notice, name) for name in fields} | changes)


def events(kubectl: Kubectl, namespace: str) -> list[dict[str, Any]]:
    """Ours: the API server itself writes some, of cluster IPs that it repairs."""
    found = get(kubectl, "-n", namespace, "events.events.k8s.io")["items"]
    return [event for event in found if event["reportingController"] == CONTROLLER]


def described(kubectl: Kubectl, namespace: str, what: str = "service/web") -> str:
    return kubectl("-n", namespace, "describe", what).partition("Events:")[2]


async def test_kubectl_describe_shows_what_was_refused_and_why(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    await Agent(api).tells(web)
    shown = described(kubectl, namespace)
    assert re.search(
        r"Warning +Rejected +\S+ +netaccel.io/agent(-\S+)? +node node-1: no room in map", shown
    ), shown
    assert re.search(r"Rejected +service/web +node node-1", kubectl("-n", namespace, "get", "events"))


async def test_what_is_still_true_is_counted_and_not_written_anew(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    agent = Agent(api)
    await agent.tells(web)
    await agent.tells(web)
    assert len(events(kubectl, namespace)) == 1
    assert "series" not in events(kubectl, namespace)[0]
    for agent.now in (1800.0, 3600.0):
        await agent.tells(web)
    (event,) = events(kubectl, namespace)
    assert event["series"]["count"] == 3
    assert "x3 over" in described(kubectl, namespace)


async def test_an_agent_that_starts_anew_finds_the_event_and_counts_on(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    first, second = Agent(api), Agent(api)
    await first.tells(web)
    first.now = 1800.0
    await first.tells(web)
    await second.tells(web)
    second.now = 1800.0
    await second.tells(web)
    (event,) = events(kubectl, namespace)
    assert event["series"]["count"] == 3


async def test_an_event_that_the_server_forgot_is_written_anew(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    agent = Agent(api)
    await agent.tells(web)
    kubectl("-n", namespace, "delete", "events", "--all")
    agent.now = 1800.0
    await agent.tells(web)
    assert len(events(kubectl, namespace)) == 1


async def test_the_clusters_matter_is_one_event_whoever_is_elected(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    notice = said(web, scope=Scope.CLUSTER, message="spec.ports[0].port: 70000 is no port")
    for node in ("node-1", "node-2"):
        await Agent(api, node, Scope.CLUSTER).tells(notice, web)
        await Agent(api, node, Scope.NODE).tells(notice)
    (event,) = events(kubectl, namespace)
    assert event["note"] == "spec.ports[0].port: 70000 is no port"


async def test_each_node_tells_its_own_matter(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    for node in ("node-1", "node-2"):
        await Agent(api, node).tells(web)
    notes = {event["note"] for event in events(kubectl, namespace)}
    assert notes == {"node node-1: no room in map", "node node-2: no room in map"}


async def test_an_object_that_was_not_understood_is_found_by_its_name(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice, apply: Apply
) -> None:
    agent, unread = Agent(api), said(web, uid="")
    await agent.tells(unread)
    assert "no room" in described(kubectl, namespace)
    kubectl("-n", namespace, "delete", "service", "web")
    await agent.tells()
    apply(service("web"), namespace)
    assert "no room" not in described(kubectl, namespace)
    await agent.tells(unread)
    assert "no room" in described(kubectl, namespace), "the new one of that name has its own"


async def test_a_slice_has_events_too(
    api: Connection, kubectl: Kubectl, namespace: str, apply: Apply
) -> None:
    found = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-x.y"},
        "addressType": "FQDN",
        "endpoints": [{"addresses": ["example.org"]}],
    }
    apply(found, namespace)
    key = ObjectKey("EndpointSlice", namespace, "web-x.y")
    await Agent(api).tells(Notice(key, "Rejected", "addressType: FQDN is not served", Scope.NODE))
    assert "FQDN is not served" in described(kubectl, namespace, "endpointslice/web-x.y")


async def test_objects_that_are_gone_get_none(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    agent = Agent(api)
    gone = said(web, key=ObjectKey("Service", namespace, "gone"), uid="")
    nowhere = said(web, key=ObjectKey("Service", f"{namespace}-gone", "web"))
    assert await agent.tells(gone, nowhere) == 0
    assert events(kubectl, namespace) == []
    assert agent.writer.problem == ""


async def test_a_namespace_that_is_being_removed_is_no_lack_of_rights(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    held = {"metadata": {"finalizers": ["netaccel.io/test"]}}
    kubectl("-n", namespace, "patch", "service", "web", "-p", str(held).replace("'", '"'))
    kubectl("delete", "namespace", namespace, "--wait=false")
    try:
        agent = Agent(api)
        assert await agent.tells(web) == 0
        assert agent.writer.problem == ""
    finally:
        kubectl(
            "-n", namespace, "patch", "service", "web", "--type=merge", "-p", '{"metadata":{"finalizers":[]}}'
        )


async def test_many_messages_of_one_kind_on_one_object_become_one(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    agent = Agent(api, limits=Limits(similar=3))
    for number in range(8):
        await agent.tells(said(web, message=f"port {number} is bad"))
    notes = sorted(event["note"] for event in events(kubectl, namespace))
    assert notes == [
        "node node-1: (several messages like this one) port 3 is bad",
        "node node-1: port 0 is bad",
        "node node-1: port 1 is bad",
        "node node-1: port 2 is bad",
    ]
    combined = [event for event in events(kubectl, namespace) if "several" in event["note"]]
    assert combined[0]["series"]["count"] == 5


async def test_what_a_limit_holds_back_is_told_later(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    agent = Agent(api, limits=Limits(object_burst=2, object_refill=300.0, similar=99))
    flood = [said(web, message=f"port {number} is bad") for number in range(4)]
    await agent.tells(*flood)
    assert (len(events(kubectl, namespace)), agent.writer.held_back) == (2, 2)
    agent.now = 600.0
    await agent.tells(*flood)
    assert (len(events(kubectl, namespace)), agent.writer.held_back) == (4, 0)


async def test_long_texts_and_names_are_cut(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice
) -> None:
    await Agent(api, "n" * 250).tells(said(web, message="é" * 3000))
    assert len(events(kubectl, namespace)) == 1


async def test_without_rights_it_says_so_and_goes_on(
    control_plane: ControlPlane, kubeconfig_for: Callable[..., Path], web: Notice
) -> None:
    async with connected(kubeconfig_for(f"user-{web.key.namespace}")) as api:
        agent = Agent(api)
        assert await agent.tells(web) >= 200
        assert "rbac.yaml" in agent.writer.problem


async def test_as_a_task_it_tells_when_it_is_stirred(
    api: Connection, kubectl: Kubectl, namespace: str, web: Notice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("netaccel.writers.events._GAP", 0.01)
    agent = Agent(api)
    async with running(agent.writer.run()):
        agent.notices = [web]
        agent.writer.stir()
        await eventually(lambda: events(kubectl, namespace))
