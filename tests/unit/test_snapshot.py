"""The world as last heard: what an event affects, and what can be asked."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from netaccel.model.address import parse_address
from netaccel.model.endpoint import EndpointSlice, Namespace, Node, Pod, PodKey, SliceKey
from netaccel.model.event import Delete, Event, Forgive, Object, ObjectKey, Reject, Synced, Upsert, object_key
from netaccel.model.service import Service, ServiceKey
from netaccel.model.snapshot import World

WEB, API = ServiceKey("shop", "web"), ServiceKey("shop", "api")


def put(obj: Object) -> Upsert:
    return Upsert(object_key(obj), obj, 0.0)


def gone(obj: Object) -> Delete:
    return Delete(object_key(obj), 0.0)


def service(key: ServiceKey = WEB, **fields: object) -> Service:
    return dataclasses.replace(Service(key, "ClusterIP", ()), **fields)  # type: ignore[arg-type]


def a_slice(name: str, of: ServiceKey | None = WEB) -> EndpointSlice:
    return EndpointSlice(SliceKey("shop", name), of, (), ())


def test_a_service_affects_itself_once() -> None:
    world = World()
    assert world.apply(put(service())) == {WEB}
    assert world.apply(put(service())) == set()
    assert world.apply(put(service(uid="2"))) == {WEB}
    assert world.apply(gone(service())) == {WEB}
    assert world.apply(gone(service())) == set()
    assert world.service(WEB) is None


def test_a_slice_waits_for_its_service() -> None:
    world = World()
    assert world.apply(put(a_slice("web-1"))) == {WEB}
    world.apply(put(a_slice("stray", None)))
    assert [str(one) for one in world.waiting_slices()] == [
        "EndpointSlice shop/stray names no Service",
        "EndpointSlice shop/web-1 waits for Service shop/web",
    ]
    world.apply(gone(a_slice("stray", None)))
    world.apply(put(service()))
    assert world.waiting_slices() == ()
    assert world.slices(WEB) == (a_slice("web-1"),)


def test_a_slice_that_changes_hands_affects_both_services() -> None:
    world = World()
    world.apply(put(a_slice("s", WEB)))
    assert world.apply(put(a_slice("s", API))) == {WEB, API}
    assert world.slices(WEB) == ()
    assert world.apply(put(a_slice("s", None))) == {API}
    assert world.slices(API) == ()


def test_slices_come_sorted_whatever_their_order_of_arrival() -> None:
    world = World()
    for name in ("c", "a", "b"):
        world.apply(put(a_slice(name)))
        world.slices(WEB)  # an answer that must not be kept too long
    assert [one.key.name for one in world.slices(WEB)] == ["a", "b", "c"]
    world.apply(gone(a_slice("b")))
    assert [one.key.name for one in world.slices(WEB)] == ["a", "c"]


def test_pods_are_found_by_their_present_node() -> None:
    world = World()
    pod = Pod(PodKey("shop", "web-0"))
    world.apply(put(pod))
    assert world.pods("") == (pod,)
    moved = dataclasses.replace(pod, node_name="node-1")
    world.apply(put(moved))
    assert (world.pods(""), world.pods("node-1"), world.pods()) == ((), (moved,), (moved,))
    world.apply(gone(moved))
    assert (world.pods(), world.pod(pod.key)) == ((), None)


def test_only_this_nodes_node_affects_services() -> None:
    world = World("node-1")
    world.apply(put(service()))
    assert world.apply(put(Node("node-2"))) == set()
    assert world.apply(put(Node("node-1", (parse_address("10.0.0.1"),)))) == {WEB}
    assert world.apply(put(Node("node-1", (parse_address("10.0.0.1"),)))) == set()
    assert world.apply(gone(Node("node-1"))) == {WEB}
    assert [node.name for node in world.nodes()] == ["node-2"]


def test_a_node_leaves_by_its_own_word_or_by_its_deletion() -> None:
    world = World("node-1")
    world.apply(gone(Node("node-1")))
    assert not world.node_leaving, "one that was never there says nothing"
    world.apply(put(Node("node-1")))
    world.apply(put(Node("node-2", leaving=True)))
    assert not world.node_leaving
    world.apply(put(Node("node-1", leaving=True)))
    assert world.node_leaving
    world.apply(put(Node("node-1")))
    assert not world.node_leaving
    for _ in range(2):
        world.apply(gone(Node("node-1")))
        assert world.node_leaving
    world.apply(put(Node("node-1")))
    assert not world.node_leaving


def test_services_with_a_health_check_are_found_at_once() -> None:
    world, checked = World(), service(health_check_node_port=30999)
    world.apply_all([put(service(API)), put(checked)])
    assert world.health_checked() == (checked,)
    changed = service(health_check_node_port=30998)
    world.apply(put(changed))
    assert world.health_checked() == (changed,)
    world.apply(put(service()))
    assert world.health_checked() == ()
    world.apply_all([put(checked), gone(checked)])
    assert world.health_checked() == ()


def test_rejections_end_by_an_upsert_or_by_forgiveness() -> None:
    world = World()
    key = ObjectKey("Service", "shop", "web")
    first = Reject(key, "a.yaml#1", "spec", "bad")
    second = Reject(key, "b.yaml#1", "spec", "bad too")
    unnamed = Reject(None, "c.yaml", "line 1", "not YAML")
    assert world.apply_all([second, first, unnamed]) == set()
    assert world.rejections() == (first, second, unnamed)
    world.apply(Forgive(None, "c.yaml"))
    world.apply(Forgive(None, "c.yaml"))
    assert world.rejections() == (first, second)
    world.apply(Upsert(key, service(), 0.0))
    assert world.rejections() == ()


def test_a_rejection_leaves_the_last_good_version_in_force() -> None:
    world = World()
    world.apply(put(service()))
    world.apply(Reject(ObjectKey("Service", "shop", "web"), "a.yaml#1", "spec", "bad"))
    assert world.service(WEB) == service()


def test_synced_and_counts() -> None:
    world = World()
    assert not world.synced
    world.apply_all([put(service()), put(Namespace("shop")), Synced()])
    assert world.synced
    assert world.counts() == {"Service": 1, "EndpointSlice": 0, "Pod": 0, "Node": 0, "Namespace": 1}
    assert world.namespace("shop") == Namespace("shop")


OBJECTS = st.one_of(
    st.builds(service, st.sampled_from([WEB, API]), uid=st.sampled_from("12")),
    st.builds(a_slice, st.sampled_from("abc"), st.sampled_from([WEB, API, None])),
    st.builds(Node, st.sampled_from(["node-1", "node-2"]), zone=st.sampled_from("ab")),
    st.builds(
        lambda name, node: Pod(PodKey("shop", name), node_name=node),
        st.sampled_from("ab"),
        st.sampled_from("12"),
    ),
)
EVENTS = st.lists(st.one_of(OBJECTS.map(put), OBJECTS.map(gone)), max_size=30)


@settings(deadline=None)
@given(EVENTS)
def test_indexes_follow_the_objects_and_what_changed_is_told(events: list[Event]) -> None:
    world, objects = World("node-1"), dict[ObjectKey, Object]()
    for event in events:
        before = {key: (world.service(key), world.slices(key)) for key in (WEB, API)}
        affected = world.apply(event)
        if isinstance(event, Upsert):
            objects[event.key] = event.object
        elif isinstance(event, Delete):
            objects.pop(event.key, None)
        changed = {key for key in (WEB, API) if (world.service(key), world.slices(key)) != before[key]}
        assert changed <= affected
    slices = [one for one in objects.values() if isinstance(one, EndpointSlice)]
    for key in (WEB, API):
        assert world.slices(key) == tuple(
            sorted((s for s in slices if s.service == key), key=lambda s: s.key)
        )
    pods = [one for one in objects.values() if isinstance(one, Pod)]
    for node in "12":
        assert set(world.pods(node)) == {pod for pod in pods if pod.node_name == node}
    assert set(world.services()) == {one.key for one in objects.values() if isinstance(one, Service)}
