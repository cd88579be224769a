# SPDX-License-Identifier: Apache-2.0
"""The source against a real API server: what is asked for, what is told, and who may not ask."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from faults import Relay
from feed import NODE, Feed, Hand, endpoint_slice, feeding, hand, pod, service

from netaccel.apiserver.servers import Rota, Server
from netaccel.cluster.controlplane import ControlPlane
from netaccel.model.event import Delete, ObjectKey, Synced, Upsert
from netaccel.sources.kubernetes.standing import Timings

QUICK = Timings(retry=(0.05, 0.5), refused=(0.05, 0.5))
NAMED = "service.kubernetes.io/service-proxy-name"


@pytest.fixture
async def made(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Hand]:
    async with hand(control_plane.admin, namespace) as found:
        yield found


def key(made: Hand, kind: str, name: str) -> ObjectKey:
    return ObjectKey(kind, made.namespace, name)


# ------------------------------------------------------------------ what is told


async def test_what_exists_is_told_and_then_that_this_was_all(
    control_plane: ControlPlane, made: Hand
) -> None:
    web = await made.put(service("web"))
    piece = await made.put(endpoint_slice("web-1", "web", ["10.244.1.5"]))
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        assert feed.last(web) is feed.last(piece) is Upsert
        ours = [one for one in feed.events if isinstance(one, Synced) or one in feed.of(web) + feed.of(piece)]
        assert [type(one) for one in ours] == [Upsert, Upsert, Synced]
        assert feed.status.problem == ""
        assert feed.status.kind == "kubernetes"
        assert feed.status.where == control_plane.server
        assert feed.status.heard is not None
        assert abs(time.time() - feed.status.heard) < 60


async def test_changes_are_told_as_they_come(control_plane: ControlPlane, made: Hand) -> None:
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        before = time.monotonic()
        web = await made.put(service("web", 80))
        await feed.has(web)
        await made.put(service("web", 81))
        await feed.until(lambda: len(feed.of(web)) == 2)
        await made.remove(web)
        await feed.lost(web)
        told = feed.of(web)
        assert [type(one) for one in told] == [Upsert, Upsert, Delete]
        assert isinstance(told[1], Upsert)
        assert told[1].object.ports[0].port == 81  # type: ignore[union-attr]
        times = [one.received for one in told]  # type: ignore[union-attr]
        assert before <= times[0] <= times[1] <= times[2] <= time.monotonic()


async def test_a_change_that_concerns_no_field_that_is_read_is_not_told(
    control_plane: ControlPlane, made: Hand
) -> None:
    web = await made.put(service("web"))
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        await made.put(service("web", team="a"))
        other = await made.put(service("other"))
        await feed.has(other)
        assert len(feed.of(web)) == 1


async def test_a_slice_may_come_before_its_service(control_plane: ControlPlane, made: Hand) -> None:
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        piece = await made.put(endpoint_slice("web-1", "web", ["10.244.1.5"]))
        await feed.has(piece)
        assert piece.name in {one.name for one in feed.world.waiting_slices()}
        await feed.has(await made.put(service("web")))
        assert piece.name not in {one.name for one in feed.world.waiting_slices()}


async def test_a_namespace_that_goes_and_comes_again_ends_as_it_is(
    control_plane: ControlPlane, made: Hand, kubectl: Callable[..., str], request: pytest.FixtureRequest
) -> None:
    again = f"{made.namespace}-again"
    request.addfinalizer(lambda: kubectl("delete", "namespace", again, "--ignore-not-found", "--wait=false"))
    async with feeding(control_plane.admin) as feed, hand(control_plane.admin, again) as second:
        await feed.synced()
        await asyncio.to_thread(kubectl, "create", "namespace", again)
        web = await second.put(service("web", 80))
        await second.put(endpoint_slice("web-1", "web", ["10.244.1.5"]))
        await feed.has(web)
        await asyncio.to_thread(kubectl, "delete", "namespace", again, "--timeout=60s", timeout=90)
        await feed.lost(web)
        await asyncio.to_thread(kubectl, "create", "namespace", again)
        await second.put(endpoint_slice("web-2", "web", ["10.244.1.6"]))
        await second.put(service("web", 81))
        await feed.until(lambda: feed.last(web) is Upsert)
        found = feed.of(web)[-1]
        assert isinstance(found, Upsert)
        assert found.object.ports[0].port == 81  # type: ignore[union-attr]


async def test_a_slice_of_a_thousand_endpoints(control_plane: ControlPlane, made: Hand) -> None:
    addresses = [f"10.244.{number // 250}.{number % 250 + 1}" for number in range(1000)]
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        piece = await made.put(endpoint_slice("web-1", "web", addresses))
        await feed.has(piece)
        found = feed.of(piece)[-1]
        assert isinstance(found, Upsert)
        assert len(found.object.endpoints) == 1000  # type: ignore[union-attr]


async def test_a_clock_that_is_set_meanwhile_changes_no_age(
    control_plane: ControlPlane, made: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 7200)
        web = await made.put(service("web"))
        await feed.has(web)
        assert feed.status.heard is not None
        assert abs(real() + 7200 - feed.status.heard) < 60


# ------------------------------------------------------------------ what is asked for


async def test_services_of_other_proxies_and_headless_ones_are_not_asked_for(
    control_plane: ControlPlane, made: Hand
) -> None:
    other = await made.put(service("other", **{NAMED: "somebody"}))
    headless = await made.put(
        endpoint_slice("h-1", "h", ["10.244.1.5"], **{"service.kubernetes.io/headless": ""})
    )
    web = await made.put(service("web"))
    async with feeding(control_plane.admin) as feed:
        await feed.synced()
        assert feed.last(web) is Upsert
        assert feed.of(other) == feed.of(headless) == []


async def test_a_service_that_turns_to_another_proxy_is_gone(control_plane: ControlPlane, made: Hand) -> None:
    web = await made.put(service("web"))
    async with feeding(control_plane.admin) as feed:
        await feed.has(web)
        await made.put(service("web", **{NAMED: "somebody"}))
        await feed.lost(web)
        await made.put(service("web"))
        await feed.has(web)


async def test_a_named_proxy_is_told_what_asks_for_it_alone(control_plane: ControlPlane, made: Hand) -> None:
    plain = await made.put(service("plain"))
    ours = await made.put(service("ours", **{NAMED: "netaccel"}))
    piece = await made.put(endpoint_slice("ours-1", "ours", ["10.244.1.5"], **{NAMED: "netaccel"}))
    async with feeding(control_plane.admin, proxy_name="netaccel") as feed:
        await feed.synced()
        assert feed.last(ours) is feed.last(piece) is Upsert
        assert feed.of(plain) == []


async def test_pods_and_nodes_are_this_nodes_own(
    control_plane: ControlPlane, made: Hand, kubectl: Callable[..., str]
) -> None:
    # A Pod needs its namespace's service account.
    account = ("serviceaccount/default", "-n", made.namespace, "--for=create", "--timeout=60s")
    await asyncio.to_thread(kubectl, "wait", *account, timeout=90)
    node = await made.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
    other = await made.put({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}})
    try:
        here, there = await made.put(pod("here", NODE)), await made.put(pod("there", "n2"))
        async with feeding(control_plane.admin, policy="off") as feed:
            await feed.synced()
            assert feed.last(here) is feed.last(node) is Upsert
            assert feed.of(there) == feed.of(other) == []
            await made.remove(here)
            await feed.lost(here)
        await made.remove(there)
    finally:
        await made.remove(node, other)


# ------------------------------------------------------------------ who may ask


RULES = {
    "services": {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
    "slices": {
        "apiGroups": ["discovery.k8s.io"],
        "resources": ["endpointslices"],
        "verbs": ["list", "watch"],
    },
    "nodes": {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list", "watch"]},
    "pods": {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
    "namespaces": {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
    "policies": {
        "apiGroups": ["networking.k8s.io", "policy.networking.k8s.io", "netaccel.io"],
        "resources": [
            "networkpolicies",
            "clusternetworkpolicies",
            "trafficpolicies",
            "clustertrafficpolicies",
        ],
        "verbs": ["list", "watch"],
    },
}


class Rights:
    """A user's, given and taken."""

    def __init__(self, made: Hand, user: dict[str, Any]) -> None:
        self.made = made
        self.name = f"{made.namespace}-reader"
        self.user = user

    async def are(self, *names: str) -> None:
        role = {"name": self.name, "kind": "ClusterRole", "apiGroup": "rbac.authorization.k8s.io"}
        api = {"apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": self.name}}
        await self.made.put({**api, "kind": "ClusterRole", "rules": [RULES[name] for name in names]})
        await self.made.put({**api, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [self.user]})

    async def end(self) -> None:
        await self.made.remove(
            self.made.key("ClusterRoleBinding", self.name), self.made.key("ClusterRole", self.name)
        )


@pytest.fixture
async def rights(made: Hand) -> AsyncIterator[Rights]:
    user = {"kind": "User", "name": made.namespace, "apiGroup": "rbac.authorization.k8s.io"}
    given = Rights(made, user)
    yield given
    await given.end()


async def test_without_rights_nothing_is_told_and_the_status_says_what_to_grant(
    control_plane: ControlPlane, made: Hand, kubeconfig_for: Callable[..., Path], rights: Rights
) -> None:
    web = await made.put(service("web"))
    async with feeding(kubeconfig_for(made.namespace), timings=QUICK) as feed:
        await feed.until(lambda: feed.status.problem)
        problem = feed.status.problem
        assert "403 Forbidden" in problem
        assert f'User "{made.namespace}" cannot' in problem
        assert "deploy/base/rbac.yaml" in problem
        assert "\n" not in problem
        assert feed.status.heard is None
        assert feed.events == []
        await rights.are(*RULES)
        await feed.synced()
        assert feed.last(web) is Upsert
        await feed.until(lambda: not feed.status.problem)


async def test_where_pods_are_forbidden_services_are_served_all_the_same(
    control_plane: ControlPlane, made: Hand, kubeconfig_for: Callable[..., Path], rights: Rights
) -> None:
    await rights.are(*RULES.keys() - {"pods"})
    async with feeding(kubeconfig_for(made.namespace), timings=QUICK) as feed:
        await feed.synced()
        await feed.has(await made.put(service("web")))
        await feed.until(lambda: feed.status.problem.startswith("pods: "))
        assert "403 Forbidden" in feed.status.problem
        assert feed.status.heard is not None


async def test_where_policies_are_forbidden_they_are_not_taken_for_absent(
    control_plane: ControlPlane, made: Hand, kubeconfig_for: Callable[..., Path], rights: Rights
) -> None:
    await rights.are(*RULES.keys() - {"policies"})
    async with feeding(kubeconfig_for(made.namespace), timings=QUICK) as feed:
        await feed.has(await made.put(service("web")))
        await feed.until(lambda: "networkpolicies" in feed.status.problem)
        assert not feed.world.synced
        await rights.are(*RULES)
        await feed.synced()


async def test_an_expired_token_is_replaced_by_the_one_that_is_in_the_file_then(
    control_plane: ControlPlane, made: Hand, tmp_path: Path
) -> None:
    await made.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "agent"}})
    rights = Rights(made, {"kind": "ServiceAccount", "name": "agent", "namespace": made.namespace})
    await rights.are(*RULES)
    token = tmp_path / "token"
    token.write_text(control_plane.token(made.namespace, "agent", -60))
    content = yaml.safe_load(control_plane.kubeconfig_of_account(made.namespace, "agent").read_text())
    content["users"][0]["user"] = {"tokenFile": str(token)}
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(content))
    try:
        async with feeding(kubeconfig, timings=QUICK) as feed:
            await feed.until(lambda: "401 Unauthorized" in feed.status.problem)
            assert f"with kubeconfig {kubeconfig}: 401" in feed.status.problem
            token.write_text(control_plane.token(made.namespace, "agent", 600) + "\n")
            await feed.synced()
            await feed.until(lambda: not feed.status.problem)
    finally:
        await rights.end()


# ------------------------------------------------------------------ which server


async def served(feed: Feed, made: Hand) -> None:
    await feed.synced()
    await feed.has(await made.put(service("web")))


@pytest.fixture(params=["closed", "silent"])
def dead(request: pytest.FixtureRequest) -> Iterator[str]:
    """An address where nobody answers: refused at once, or taken and never served."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("node", ["a", "d"])
async def test_of_several_addresses_the_one_that_answers_is_used(
    control_plane: ControlPlane, made: Hand, dead: str, node: str
) -> None:
    addresses = f"{dead},127.0.0.1:{control_plane.port}"
    async with feeding(control_plane.admin, api_servers=addresses, node_name=node) as feed:
        await served(feed, made)
        assert feed.status.where == control_plane.server
        assert feed.status.problem == ""


def test_those_nodes_begin_with_different_servers() -> None:
    urls = [Server("https://one", ("one",)), Server("https://two", ("two",))]
    assert Rota(urls, "a").current != Rota(urls, "d").current


async def test_when_the_one_in_use_dies_another_takes_over_and_is_kept(
    control_plane: ControlPlane, made: Hand
) -> None:
    async with (
        Relay("127.0.0.1", control_plane.port) as first,
        Relay("127.0.0.1", control_plane.port) as second,
    ):
        relays = {f"https://127.0.0.1:{one.port}": one for one in (first, second)}
        addresses = f"127.0.0.1:{first.port},127.0.0.1:{second.port}"
        async with feeding(control_plane.admin, timings=QUICK, api_servers=addresses) as feed:
            await served(feed, made)
            used = relays.pop(feed.status.where)
            assert [one.taken for one in relays.values()] == [0]  # the other was not asked
            await used.close()
            await feed.has(await made.put(service("other")))
            await feed.until(lambda: not feed.status.problem)
            assert feed.status.where in relays
            assert feed.deletes(made) == []


async def test_where_no_address_answers_the_status_names_them_all(control_plane: ControlPlane) -> None:
    with socket.socket() as first, socket.socket() as second:
        for one in (first, second):
            one.bind(("127.0.0.1", 0))  # held, and nobody listens
        ports = [one.getsockname()[1] for one in (first, second)]
        addresses = ",".join(f"127.0.0.1:{port}" for port in ports)
        async with feeding(control_plane.admin, timings=QUICK, api_servers=addresses) as feed:
            await feed.until(lambda: feed.status.problem)
            problem = feed.status.problem
    assert all(f"https://127.0.0.1:{port}: connection refused" in problem for port in ports)
    assert "is an API server up" in problem
    assert "\n" not in problem


async def test_an_address_that_the_certificate_lacks_may_be_proved_by_the_kubeconfigs_name(
    control_plane: ControlPlane, made: Hand
) -> None:
    # All of 127.0.0.0/8 is the loopback's; the certificate has 127.0.0.1 alone, which the kubeconfig names.
    async with Relay("127.0.0.2", control_plane.port) as relay:
        addresses = f"127.0.0.2:{relay.port}"
        async with feeding(control_plane.admin, api_servers=addresses) as feed:
            await served(feed, made)
            assert feed.status.where == f"https://127.0.0.2:{relay.port}"


async def test_a_server_that_can_prove_no_name_that_was_given_is_not_believed(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    content = yaml.safe_load(control_plane.admin.read_text())
    content["clusters"][0]["cluster"]["tls-server-name"] = "somebody.else"
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(content))
    async with feeding(kubeconfig, timings=QUICK) as feed:
        await feed.until(lambda: "its certificate is not for somebody.else" in feed.status.problem)
        assert feed.events == []
