# SPDX-License-Identifier: Apache-2.0
"""Only differences are told, and nothing is forgotten by mistake."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netaccel.errors import ApiError
from netaccel.model.event import Delete, Event, Forgive, ObjectKey, Reject, Upsert
from netaccel.model.snapshot import World
from netaccel.sources.kubernetes import wire
from netaccel.sources.kubernetes.kinds import watched
from netaccel.sources.kubernetes.told import Told

ORIGIN = "/api/v1/services"
WEB = ObjectKey("Service", "default", "web")


def document(name: str = "web", port: object = 80, **changes: object) -> msgspec.Raw:
    spec = {"clusterIP": "10.96.0.1", "ports": [{"port": port}]}
    content = {"metadata": {"name": name, "namespace": "default"}, "spec": spec, **changes}
    return msgspec.Raw(json.dumps(content).encode())


class Teller:
    """A Told of Services and what it said."""

    def __init__(self) -> None:
        self.told = Told("Service", ORIGIN)

    def there(self, *documents: msgspec.Raw) -> list[Event]:
        return [event for one in documents for event in self.told.there(one, wire.head(one), 1.0)]

    def gone(self, *names: str) -> list[Event]:
        keys = [ObjectKey("Service", "default", name) for name in names]
        return [event for key in keys for event in self.told.gone(key, 2.0)]

    def listed(self, *documents: msgspec.Raw) -> list[Event]:
        self.told.begin_list()
        return [*self.there(*documents), *self.told.end_list(3.0)]


def kinds(events: Iterable[Event]) -> list[type]:
    return [type(event) for event in events]


def test_an_object_is_told_once_and_its_changes_each() -> None:
    teller = Teller()
    assert kinds(teller.there(document(port=80))) == [Upsert]
    assert teller.there(document(port=80)) == []
    assert kinds(teller.there(document(port=81))) == [Upsert]


def test_what_was_never_told_is_not_deleted() -> None:
    assert Teller().gone("web") == []


def test_a_complete_list_says_what_is_gone() -> None:
    teller = Teller()
    teller.listed(document("a"), document("b"), document("c"))
    events = teller.listed(document("a"), document("b", 81))
    assert [(type(one), getattr(one, "key", None) and one.key.name) for one in events] == [  # type: ignore[union-attr]
        (Upsert, "b"),
        (Delete, "c"),
    ]


def test_a_list_that_broke_off_says_nothing_of_what_was_not_in_it() -> None:
    teller = Teller()
    teller.listed(document("a"), document("b"))
    teller.told.begin_list()
    teller.there(document("a"))
    teller.told.drop_list()
    assert list(teller.told.end_list(1.0)) == []
    assert len(teller.told) == 2


def test_a_bad_version_keeps_the_good_one_and_is_told_once() -> None:
    teller = Teller()
    teller.there(document())
    bad = document(port="eighty")
    (reject,) = teller.there(bad)
    assert reject == Reject(WEB, ORIGIN, "spec.ports[0].port", "is text: give a whole number")
    assert teller.there(bad) == []
    assert teller.listed(bad) == []
    assert len(teller.told) == 1


def test_the_old_version_again_ends_the_rejection() -> None:
    teller = Teller()
    teller.there(document())
    teller.there(document(port="eighty"))
    assert teller.there(document()) == [Forgive(WEB, ORIGIN)]


def test_a_bad_object_that_goes_is_forgiven() -> None:
    teller = Teller()
    teller.there(document(port="eighty"))
    assert teller.gone("web") == [Forgive(WEB, ORIGIN)]
    teller.there(document(), document(port="eighty"))
    assert teller.listed() == [Delete(WEB, 3.0), Forgive(WEB, ORIGIN)]


def test_an_object_of_another_kind_is_refused_under_the_name_that_it_has() -> None:
    teller = Teller()
    teller.there(document())
    (reject,) = teller.there(document(kind="Pod"))
    assert reject == Reject(WEB, ORIGIN, "kind", "is 'Pod' where a Service was asked for")


def test_while_a_list_has_an_object_without_a_name_nothing_is_gone() -> None:
    teller = Teller()
    teller.listed(document("a"), document("b"))
    nameless = msgspec.Raw(b'{"metadata": 3}')
    events = teller.listed(document("a"), nameless)
    assert kinds(events) == [Reject]
    assert teller.listed(document("a"), nameless) == []
    assert kinds(teller.listed(document("a"))) == [Forgive, Delete]


STATES = st.dictionaries(st.sampled_from("abcd"), st.sampled_from([80, 81, "eighty"]), max_size=4)


@given(st.lists(STATES, max_size=6))
def test_after_any_lists_the_world_is_what_the_last_good_versions_were(
    states: list[dict[str, object]],
) -> None:
    teller, world = Teller(), World()
    good: dict[str, object] = {}
    for state in states:
        world.apply_all(teller.listed(*(document(name, port) for name, port in state.items())))
        good = {name: good.get(name) if port == "eighty" else port for name, port in state.items()}
        found = {key.name: world.service(key).ports[0].port for key in world.services()}  # type: ignore[union-attr]
        assert found == {name: port for name, port in good.items() if port is not None}
        assert {one.key.name for one in world.rejections() if one.key} == {
            name for name, port in state.items() if port == "eighty"
        }


# ------------------------------------------------------------------------ the wire


@pytest.mark.parametrize(
    "line", [b"", b"<html>", b"[]", b"{}", b'{"type":', b'{"type":3,"object":{}}', b"\xff"]
)
def test_what_is_no_event_of_a_watch_is_an_error(line: bytes) -> None:
    with pytest.raises(ApiError, match="a watch's line"):
        wire.event(line)


def test_a_list_is_of_the_kind_that_was_asked_for() -> None:
    body = b'{"kind":"ServiceList","metadata":{"resourceVersion":"7","continue":"abc"},"items":[{},{}]}'
    page = wire.page(body, "Service")
    assert (len(page.items), page.version, page.next) == (2, "7", "abc")
    with pytest.raises(ApiError, match="a list of Pods was asked for, ServiceList came"):
        wire.page(body, "Pod")


@pytest.mark.parametrize(
    "body", [b"<html>", b'{"kind":"ServiceList","items":[', b'{"kind":"ServiceList"}', b"[]"]
)
def test_what_is_no_list_is_an_error(body: bytes) -> None:
    with pytest.raises(ApiError, match="a list of Services"):
        wire.page(body, "Service")


def test_the_end_of_the_initial_events_is_marked() -> None:
    meta = b'{"metadata":{"resourceVersion":"9","annotations":{"k8s.io/initial-events-end":"true"}}}'
    assert wire.head(msgspec.Raw(meta)).ends_initial
    assert not wire.head(msgspec.Raw(b'{"metadata":{"resourceVersion":"9"}}')).ends_initial


# ----------------------------------------------------------------- what is asked for


def test_a_node_asks_for_its_own_objects_and_what_this_proxy_serves() -> None:
    found = {one.name: dict(one.selectors) for one in watched("n1", "", policy=False)}
    proxied = {"labelSelector": "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"}
    assert found == {
        "services": proxied,
        "endpointslices": proxied,
        "nodes": {"fieldSelector": "metadata.name=n1"},
        "pods": {"fieldSelector": "spec.nodeName=n1"},
        "namespaces": {},
    }


def test_without_policy_namespaces_are_asked_for_and_not_needed() -> None:
    """Their annotation says what is accelerated, whether or not policies are enforced."""
    (spaces,) = (one for one in watched("n1", "", policy=False) if one.kind == "Namespace")
    assert (spaces.needed, spaces.optional, spaces.widens) == (False, False, False)


def test_where_policies_are_enforced_they_are_asked_for_too_and_namespaces_are_needed() -> None:
    plain = watched("n1", "", policy=False)
    found = {one.name: one for one in watched("n1", "", policy=True)}
    added = {name: one for name, one in found.items() if one not in plain}
    added = {name: one for name, one in added.items() if not one.widens}
    assert {name: one.optional for name, one in added.items()} == {
        "namespaces": False,
        "networkpolicies": False,
        "clusternetworkpolicies": True,
        "trafficpolicies": True,
        "clustertrafficpolicies": True,
    }
    assert not any(one.selectors for one in added.values())
    assert all(one.needed for one in added.values()), "forbidden policies are no absent ones"
    assert {name for name, one in found.items() if one.widens} == {"nodes", "pods"}
    assert not any(one.widens for one in plain)


def test_a_named_proxy_asks_for_what_names_it() -> None:
    found = {one.name: dict(one.selectors) for one in watched("n1", "netaccel", policy=False)}
    wanted = "service.kubernetes.io/service-proxy-name=netaccel,!service.kubernetes.io/headless"
    assert found["services"] == found["endpointslices"] == {"labelSelector": wanted}
