# SPDX-License-Identifier: Apache-2.0
"""Which endpoints a load balancer is told of: as kube-proxy counts them."""

from __future__ import annotations

import dataclasses
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from netaccel.compile.health import Counts, HealthCheck, health_checks, local_endpoints
from netaccel.compile.services import NodeFacts
from netaccel.model import address
from netaccel.model.address import parse_address
from netaccel.model.endpoint import Endpoint, EndpointSlice, SliceKey, SlicePort
from netaccel.model.event import Delete, Object, ObjectKey, Upsert, object_key
from netaccel.model.service import Protocol, Service, ServiceKey, ServicePort, TrafficPolicy
from netaccel.model.snapshot import World

WEB = ServiceKey("shop", "web")
HERE = NodeFacts("node-1", node_ports=(30000, 32767))
HTTP, HTTPS = SlicePort("http", Protocol.TCP, 8080), SlicePort("https", Protocol.TCP, 8443)


def service(name: str = "web", port: int = 30999, **fields: Any) -> Service:
    made = Service(
        ServiceKey("shop", name),
        "LoadBalancer",
        (ServicePort("http", Protocol.TCP, 80, 30080), ServicePort("https", Protocol.TCP, 443, 30443)),
        cluster_ips=(parse_address("10.96.0.10"),),
        external_policy=TrafficPolicy.LOCAL,
        health_check_node_port=port,
    )
    return dataclasses.replace(made, **fields)


def endpoint(text: str, node: str = "node-1", **conditions: bool) -> Endpoint:
    return Endpoint(parse_address(text), node_name=node, **conditions)


def a_slice(*endpoints: Endpoint, name: str = "web-1", ports: tuple[SlicePort, ...] = (HTTP, HTTPS)) -> Any:
    return EndpointSlice(SliceKey("shop", name), WEB, ports, endpoints)


def world(*objects: Object) -> World:
    made = World("node-1")
    made.apply_all(Upsert(object_key(one), one, 0.0) for one in objects)
    return made


def count(*slices: EndpointSlice, **fields: Any) -> int:
    return health_checks(world(service(**fields), *slices), HERE)[30999].local_endpoints


def test_ready_endpoints_of_this_node_count_once_whatever_the_number_of_their_ports() -> None:
    assert count(a_slice(endpoint("10.1.0.1"), endpoint("10.1.0.2"))) == 2
    assert count() == 0


def test_endpoints_elsewhere_or_nowhere_are_not_here() -> None:
    assert count(a_slice(endpoint("10.1.0.1", "node-2"), endpoint("10.1.0.2", ""))) == 0
    nowhere = a_slice(endpoint("10.1.0.2", ""))
    assert local_endpoints(service(), [nowhere], "") == 0


def test_one_that_terminates_counts_no_more_although_it_serves() -> None:
    on_its_way_out = endpoint("10.1.0.1", ready=False, serving=True, terminating=True)
    assert count(a_slice(on_its_way_out, endpoint("10.1.0.2", ready=False))) == 0


def test_one_whose_service_publishes_it_ready_or_not_counts_to_its_end() -> None:
    assert count(a_slice(endpoint("10.1.0.1", ready=True, serving=False, terminating=True))) == 1


def test_an_endpoint_in_two_slices_is_one() -> None:
    overlapping = (a_slice(endpoint("10.1.0.1")), a_slice(endpoint("10.1.0.1"), name="web-2"))
    assert count(*overlapping) == 1
    moving = (a_slice(endpoint("10.1.0.1", ready=False)), a_slice(endpoint("10.1.0.1"), name="web-2"))
    assert count(*moving) == 1, "ready in one of them: that one is as new as the other"


def test_a_slice_without_a_port_leads_nowhere() -> None:
    assert count(a_slice(endpoint("10.1.0.1"), ports=())) == 0
    assert count(a_slice(endpoint("10.1.0.1"), ports=(SlicePort("", Protocol.TCP, 0),))) == 0


def test_a_pod_with_an_address_of_each_family_is_one() -> None:
    both = (parse_address("10.96.0.10"), parse_address("fd00:96::10"))
    four = a_slice(endpoint("10.1.0.1"), endpoint("10.1.0.2"))
    six = a_slice(endpoint("fd00:1::1"), name="web-6")
    assert count(four, six, cluster_ips=both) == 2
    assert count(six, cluster_ips=both) == 1
    assert count(six) == 0, "a family that the Service doesn't have"


def test_only_services_that_are_served_here_are_answered_for() -> None:
    def asked(**fields: Any) -> bool:
        return bool(health_checks(world(service(**fields)), HERE))

    assert asked()
    assert not asked(port=0)
    assert not asked(unserved_reason="headless")
    assert not asked(proxy_name="other")
    assert not asked(port=22), "a port that no Service may have"
    ours = dataclasses.replace(HERE, proxy_name="netaccel")
    assert not health_checks(world(service()), ours)
    assert health_checks(world(service(proxy_name="netaccel")), ours)


def test_of_two_services_with_one_port_the_older_is_answered_for() -> None:
    young, old = service("a", created=2.0), service("web", created=1.0)
    found = health_checks(world(young, old, a_slice(endpoint("10.1.0.1"))), HERE)
    assert found == {30999: HealthCheck("shop", "web", 1, (ServiceKey("shop", "a"),))}
    assert health_checks(world(young), HERE) == {30999: HealthCheck("shop", "a", 0)}


endpoints = st.builds(
    lambda number, six, *rest: Endpoint(parse_address(f"{'fd00::' if six else '10.0.0.'}{number}"), *rest),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(("node-1", "node-2", "")),
)
slices = st.builds(
    lambda name, found, ports: a_slice(*found, name=name, ports=tuple(ports)),
    st.sampled_from("abc"),
    st.lists(endpoints, max_size=4),
    st.lists(st.sampled_from((HTTP, HTTPS, SlicePort("any", Protocol.TCP, 0))), max_size=2, unique=True),
)
families = st.sampled_from((("10.96.0.1",), ("fd00:96::1",), ("10.96.0.1", "fd00:96::1")))
events = st.lists(
    st.one_of(
        slices.map(lambda one: Upsert(object_key(one), one, 0.0)),
        families.map(lambda ips: service(cluster_ips=tuple(map(parse_address, ips)))).map(
            lambda one: Upsert(object_key(one), one, 0.0)
        ),
        st.sampled_from("abc").map(lambda name: Delete(ObjectKey("EndpointSlice", "shop", name), 0.0)),
    ),
    max_size=12,
)


def as_kube_proxy_counts(one: Service, found: tuple[EndpointSlice, ...], six: bool) -> int:
    """By service port first and by address then, as its EndpointsMap has them; one proxy for each family."""
    by_port: dict[str, set[bytes]] = {}
    for each in found:
        for port in each.ports:
            for point in each.endpoints if port.port else ():
                is_of_family = address.is_ipv4(point.address) != six
                if is_of_family and point.ready and point.node_name == "node-1":
                    by_port.setdefault(port.name, set()).add(point.address)
    has_family = any(address.is_ipv4(ip) != six for ip in one.cluster_ips)
    return len(set().union(*by_port.values())) if has_family else 0


@settings(deadline=None)
@given(events)
def test_whatever_happens_the_count_is_kube_proxys_and_remembering_changes_nothing(
    history: list[Upsert | Delete],
) -> None:
    made, counts = world(service()), Counts()
    for event in history:
        made.apply(event)
        found = health_checks(made, HERE, counts)
        assert found == health_checks(made, HERE)
        one = made.service(WEB)
        assert one is not None
        of_families = [as_kube_proxy_counts(one, made.slices(WEB), six) for six in (False, True)]
        assert found[30999].local_endpoints == max(of_families)
