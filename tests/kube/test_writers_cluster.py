# SPDX-License-Identifier: Apache-2.0
"""One of several agents is elected, and what it does for all."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from writers import SNAPSHOT, Kubectl, connected, eventually, get, install_kinds, remembered, running

from netaccel.apiserver.api import Api
from netaccel.apiserver.connection import Connection
from netaccel.apiserver.election import Election, Terms
from netaccel.cluster.arguments import Options
from netaccel.cluster.controlplane import ControlPlane
from netaccel.model.event import ObjectKey
from netaccel.writers.cluster import ClusterWriter, Warden
from netaccel.writers.events import CONTROLLER
from netaccel.writers.nodestate import NodeStateWriter, Rhythm
from netaccel.writers.notices import Notice, Scope
from netaccel.writers.state import PATH, NodeSnapshot
from netaccel.writers.times import seconds

TERMS = Terms(duration=60, deadline=50, renew=0.3, refused=0.3)
"""Nobody's Lease ends because the machine is busy."""
SHORT = replace(TERMS, duration=5, deadline=4)
QUICK = Rhythm(gap=0.0, figures=0.0, spread=0.0, silence=0.0)


@pytest.fixture(autouse=True, scope="module")
def _kinds(control_plane: ControlPlane) -> None:
    install_kinds(control_plane.kubectl)


@pytest.fixture
async def api(control_plane: ControlPlane) -> AsyncIterator[Connection]:
    async with connected(control_plane.admin) as connection:
        yield connection


class Candidate:
    """One that stands for election, and whether it does its duty."""

    def __init__(self, api: Api, namespace: str, identity: str, terms: Terms = TERMS) -> None:
        self.election = Election(api, namespace=namespace, identity=identity, terms=terms)
        self.active = False
        self.terms = 0

    async def duty(self) -> None:
        self.active, self.terms = True, self.terms + 1
        try:
            await asyncio.Event().wait()
        finally:
            self.active = False

    async def run(self) -> None:
        await self.election.run(self.duty)


def lease(kubectl: Kubectl, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = get(kubectl, "-n", namespace, "lease", "netaccel")["spec"]
    return found


# ------------------------------------------------------------------- the election


async def test_one_of_two_is_elected(api: Connection, kubectl: Kubectl, namespace: str) -> None:
    both = [Candidate(api, namespace, name) for name in ("a", "b")]
    async with running(*(one.run() for one in both)):
        await eventually(lambda: any(one.active for one in both) and all(one.election.holder for one in both))
        holder = lease(kubectl, namespace)["holderIdentity"]
        assert [one.election.identity for one in both if one.active] == [holder]
        assert [one.election.identity for one in both if one.election.leads] == [holder]
        renewed = lease(kubectl, namespace)["renewTime"]
        await eventually(lambda: lease(kubectl, namespace)["renewTime"] != renewed)
        assert lease(kubectl, namespace)["leaseTransitions"] == 0


async def test_one_that_stops_gives_the_lease_back(api: Connection, kubectl: Kubectl, namespace: str) -> None:
    # An end takes no longer than half a turn: this one may be slow.
    first = Candidate(api, namespace, "a", replace(TERMS, renew=30.0))
    async with running(first.run()):
        await eventually(lambda: first.active)
    assert not first.active
    assert not first.election.leads
    assert lease(kubectl, namespace).get("holderIdentity", "") == ""


async def test_one_that_dies_is_replaced_after_its_time(
    control_plane: ControlPlane, api: Connection, kubectl: Kubectl, namespace: str
) -> None:
    second = Candidate(api, namespace, "b", SHORT)
    async with connected(control_plane.admin) as dying:
        first = Candidate(dying, namespace, "a", SHORT)
        first.election._resign = _nothing  # type: ignore[method-assign]  # it dies without a word
        async with running(first.run()):
            await eventually(lambda: first.active)
    async with running(second.run()):
        assert lease(kubectl, namespace)["holderIdentity"] == "a"
        await eventually(lambda: second.active)
        assert lease(kubectl, namespace)["holderIdentity"] == "b"
        assert lease(kubectl, namespace)["leaseTransitions"] == 1


async def test_one_whose_lease_was_taken_stops_at_once(
    api: Connection, kubectl: Kubectl, namespace: str
) -> None:
    one = Candidate(api, namespace, "a")
    async with running(one.run()):
        await eventually(lambda: one.active)
        kubectl(
            *("-n", namespace, "patch", "lease", "netaccel", "--type=merge", "-p"),
            '{"spec":{"holderIdentity":"thief","leaseDurationSeconds":2}}',
        )
        await eventually(lambda: not one.active)
        await eventually(lambda: one.terms == 2 and one.active)


async def test_without_a_server_the_duty_ends_in_time_and_begins_again(
    own_control_plane: ControlPlane,
) -> None:
    async with connected(own_control_plane.admin) as api:
        one = Candidate(api, "default", "a", SHORT)
        async with running(one.run()):
            await eventually(lambda: one.active)
            own_control_plane.freeze_api_server()
            try:
                await eventually(lambda: not one.active)
                assert not one.election.leads
            finally:
                own_control_plane.thaw_api_server()
            await eventually(lambda: one.active)
            assert one.election.problem == ""


async def test_without_rights_it_says_so_and_is_elected_once_it_has_them(
    kubectl: Kubectl, kubeconfig_for: Callable[..., Path], namespace: str
) -> None:
    user = f"user-{namespace}"
    async with connected(kubeconfig_for(user)) as api:
        one = Candidate(api, namespace, "a")
        async with running(one.run()):
            await eventually(lambda: "rbac.yaml" in one.election.problem)
            kubectl("-n", namespace, "create", "rolebinding", user, "--clusterrole=admin", f"--user={user}")
            kubectl("-n", namespace, "create", "role", user, "--verb=*", "--resource=leases")
            kubectl("-n", namespace, "create", "rolebinding", f"{user}-2", f"--role={user}", f"--user={user}")
            await eventually(lambda: one.active)
            assert one.election.problem == ""


async def test_a_duty_that_fails_is_not_kept_secret(api: Connection, namespace: str) -> None:
    async def fails() -> None:
        raise RuntimeError("a defect")

    election = Election(api, namespace=namespace, identity="a", terms=TERMS)
    with pytest.raises(RuntimeError, match="a defect"):
        await election.run(fails)


# ------------------------------------------------------------------------- duties


@pytest.fixture
def node(kubectl: Kubectl, apply: Callable[..., str]) -> Iterator[str]:
    name = f"node-{uuid.uuid4().hex[:8]}"
    apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    yield name
    kubectl("delete", "node", name, "--wait=false")
    kubectl("delete", "nodestate", name, "--ignore-not-found", "--wait=false")


async def snapshot() -> NodeSnapshot:
    return SNAPSHOT


def ready(kubectl: Kubectl, node: str) -> tuple[str, str]:
    (found,) = get(kubectl, "nodestate", node)["status"]["conditions"]
    return found["status"], found["reason"]


async def test_a_node_is_unknown_after_three_minutes_of_silence_until_its_agent_is_back(
    api: Connection, kubectl: Kubectl, node: str
) -> None:
    now = [0.0]
    agent = NodeStateWriter(api, node, snapshot, rhythm=QUICK)
    warden = Warden(api, lambda: None, clock=lambda: now[0])
    await agent.step()
    await remembered(api, PATH, node)
    for now[0] in (0.0, 180.0):
        assert await warden.step() == 0
        assert ready(kubectl, node) == ("True", "Serving")
    now[0] = 181.0
    await warden.step()
    assert ready(kubectl, node) == ("Unknown", "AgentSilent")
    state = get(kubectl, "nodestate", node)
    assert state["status"]["backends"] == SNAPSHOT.backends, "what it last said stays"
    written = state["metadata"]["resourceVersion"]
    await warden.step()
    assert get(kubectl, "nodestate", node)["metadata"]["resourceVersion"] == written, "it is said once"

    back = NodeStateWriter(api, node, snapshot, rhythm=QUICK)
    await back.step()
    assert ready(kubectl, node) == ("True", "Serving")
    now[0] = 200.0
    await warden.step()
    assert ready(kubectl, node) == ("True", "Serving")


async def test_the_server_says_how_old_a_heartbeat_is_whatever_the_nodes_clock_says(
    api: Connection, kubectl: Kubectl, node: str
) -> None:
    """The node's clock is a year ahead; the elected one hears of this node for the first time."""
    agent = NodeStateWriter(api, node, snapshot, wall=lambda: 1.8e9 + 3.2e7)
    await agent.step()
    await remembered(api, PATH, node)
    stamps = get(kubectl, "nodestate", node, "--show-managed-fields")["metadata"]["managedFields"]
    (stamp,) = (entry["time"] for entry in stamps)
    at = _seconds(stamp)
    await Warden(api, lambda: at + 170).step()
    assert ready(kubectl, node)[0] == "True"
    await Warden(api, lambda: at + 190).step()
    assert ready(kubectl, node)[0] == "Unknown"


async def test_an_agent_that_wrote_meanwhile_is_not_overwritten(
    api: Connection, kubectl: Kubectl, node: str
) -> None:
    now = [0.0]
    agent = NodeStateWriter(api, node, snapshot, rhythm=QUICK)
    await agent.step()
    await remembered(api, PATH, node)
    warden = Warden(api, lambda: None, clock=lambda: now[0])
    await warden.step()
    stale = await warden._beats()

    async def beats() -> Any:
        return stale

    back = NodeStateWriter(api, node, _drifted, rhythm=QUICK)
    await back.step()
    warden._beats = beats  # type: ignore[method-assign]
    now[0] = 200.0
    assert await warden.step() == 0
    assert ready(kubectl, node)[0] == "True"
    assert warden.problem == ""


async def test_without_a_namespace_for_the_lease_it_says_what_makes_it(api: Connection) -> None:
    election = Election(api, namespace="nowhere", identity="a", terms=TERMS)
    async with running(election.run(_nothing)):
        await eventually(lambda: election.problem)
    assert "Lease nowhere/netaccel" in election.problem
    assert "kubectl apply -k deploy/" in election.problem


async def test_without_its_kind_it_says_so(start_control_plane: Callable[[Options], ControlPlane]) -> None:
    bare = start_control_plane(Options())
    async with connected(bare.admin) as api:
        warden = Warden(api, lambda: None)
        assert await warden.step() >= 200
        assert "kubectl apply -k policies/" in warden.problem
        install_kinds(bare.kubectl)
        async with asyncio.timeout(60):
            while await warden.step():  # noqa: ASYNC110
                await asyncio.sleep(0.1)  # the server says so while the kind is being set up
        assert warden.problem == ""


async def test_the_elected_one_writes_the_clusters_events(
    api: Connection, kubectl: Kubectl, namespace: str, apply: Callable[..., str]
) -> None:
    apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"ports": [{"port": 80}]},
        },
        namespace,
    )
    key = ObjectKey("Service", namespace, "web")
    notices = [
        Notice(key, "Rejected", "spec: nonsense", Scope.CLUSTER),
        Notice(key, "Rejected", "no room", Scope.NODE),
    ]
    agents = [
        ClusterWriter(
            api,
            name,
            Election(api, namespace=namespace, identity=name, terms=TERMS),
            lambda: notices,
        )
        for name in ("node-1", "node-2")
    ]
    async with running(*(agent.run() for agent in agents)):
        await eventually(lambda: "spec: nonsense" in kubectl("-n", namespace, "describe", "service", "web"))
        found = get(kubectl, "-n", namespace, "events.events.k8s.io")["items"]
        (event,) = (one for one in found if one["reportingController"] == CONTROLLER)
        assert event["reportingInstance"] in [a.election.identity for a in agents if a.election.leads]
        assert [agent.problem for agent in agents] == ["", ""]
        server = next(agent.election.server_time() for agent in agents if agent.election.leads)
        assert server is not None


async def _nothing() -> None:
    pass


async def _drifted() -> NodeSnapshot:
    return replace(SNAPSHOT, drift=1)


def _seconds(text: str) -> float:
    found = seconds(text)
    assert found is not None
    return found
