"""Kubernetes objects in, model or rejection out: the cases of tests/cases/parse, as YAML and as JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from netaccel.errors import ObjectError
from netaccel.model import address
from netaccel.model.address import Cidr
from netaccel.model.endpoint import EndpointSlice, PodKey, SliceKey
from netaccel.model.event import ObjectKey
from netaccel.model.policy import (
    Direction,
    NamedPort,
    Policy,
    PolicyKey,
    PortRange,
    Requirement,
    ServicePeer,
    Tier,
    UnknownPeer,
)
from netaccel.model.service import Protocol, ServiceKey
from netaccel.sources import parse
from netaccel.sources.documents import read_file
from netaccel.sources.parse import Parsed, Refused

PROTOCOLS = {1: "ICMP", 58: "ICMPv6", **{one.value: one.name for one in Protocol}}
CASES_DIR = Path(__file__).parent.parent / "cases" / "parse"


def load(text: str) -> Any:
    """A case file; dates stay text, as they do for manifests."""

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {  # noqa: RUF012
            first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
            for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    return yaml.load(text, Loader)


CASES = [
    pytest.param(case, id=f"{file.stem}: {case['title']}")
    for file in sorted(CASES_DIR.glob("*.yaml"))
    for case in load(file.read_text())
]
VALID_OBJECTS = [param.values[0]["object"] for param in CASES if "expect" in param.values[0]]


def plain(value: Any) -> Any:
    """A model object as a case writes it."""
    match value:
        case Direction() | Tier():
            return value.name
        case PolicyKey():
            return str(value)
        case Requirement():
            return " ".join((value.key, value.operator.value, *value.values))
        case PortRange(protocol, first, last):
            name = PROTOCOLS[protocol]
            return f"{name} {first}" if first == last else f"{name} {first}-{last}"
        case NamedPort():
            return f"{value.name} {PROTOCOLS[value.protocol]}" if value.protocol else value.name
        case ServicePeer():
            return {"service": str(value.service)}
        case UnknownPeer():
            return {"unknown": value.path}
        case frozenset():
            return sorted(plain(item) for item in value)
        case Protocol():
            return value.name
        case enum.Enum():
            return value.value
        case ServiceKey() | SliceKey() | PodKey():
            return f"{value.namespace}/{value.name}"
        case Cidr():
            return address.cidr_text(value)
        case bytes():
            return address.text(value)
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


@pytest.mark.parametrize("form", ["builtins", "json"])
@pytest.mark.parametrize("case", CASES)
def test_case(case: dict[str, Any], form: str) -> None:
    document = case["object"] if form == "builtins" else json.dumps(case["object"]).encode()
    outcomes = list(parse.read(document))
    if case.get("ignored"):
        assert outcomes == []
        return
    (outcome,) = outcomes
    if "reject" in case:
        assert isinstance(outcome, Refused), outcome
        assert outcome.path == case["reject"]["path"]
        assert case["reject"]["reason"] in outcome.reason
        if "fallback" in case["reject"]:
            assert_is(plain(outcome.fallback), case["reject"]["fallback"])
        return
    assert isinstance(outcome, Parsed), outcome
    assert_is(plain(outcome.object), case["expect"])
    if isinstance(outcome.object, Policy):
        wanted = case.get("warns", [])
        assert [path for path, _ in outcome.object.warnings] == [path for path, _ in wanted]
        for (_, text), (_, part) in zip(outcome.object.warnings, wanted, strict=True):
            assert part in text


def assert_is(found: Any, wanted: Any) -> None:
    """Each field that a case names has the value that it gives; null: there is no object."""
    if wanted is None or found is None:
        assert found == wanted
        return
    assert {name: found[name] for name in wanted} == wanted


def test_a_case_has_one_verdict_and_a_title_of_its_own() -> None:
    titles = [param.id for param in CASES]
    assert len(titles) == len(set(titles))
    for param in CASES:
        assert len({"expect", "reject", "ignored"} & param.values[0].keys()) == 1


# ------------------------------------------------------------------- lists

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}
BAD_SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "b"}, "spec": {"ports": 1}}


@pytest.mark.parametrize("form", ["builtins", "json"])
def test_one_bad_item_of_a_list_harms_only_itself(form: str) -> None:
    document: Any = {"apiVersion": "v1", "kind": "List", "items": [NAMESPACE, BAD_SERVICE, 7, NAMESPACE]}
    if form == "json":
        document = json.dumps(document).encode()
    first, second, third, fourth = parse.read(document)
    assert isinstance(first, Parsed)
    assert isinstance(fourth, Parsed)
    assert (first.key, first.item) == (ObjectKey("Namespace", "", "a"), 0)
    assert fourth.item == 3
    assert second == Refused(
        ObjectKey("Service", "default", "b"), "spec.ports", "is a whole number: give a list", 1
    )
    assert isinstance(third, Refused)
    assert third.key is None


def test_items_of_a_typed_list_need_no_kind() -> None:
    document = {"apiVersion": "v1", "kind": "NamespaceList", "items": [{"metadata": {"name": "a"}}]}
    (outcome,) = parse.read(json.dumps(document).encode())
    assert isinstance(outcome, Parsed)
    assert outcome.key == ObjectKey("Namespace", "", "a")


@pytest.mark.parametrize("form", ["builtins", "json"])
def test_an_item_that_says_another_kind_than_its_list_is_refused(form: str) -> None:
    pod = {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}
    document: Any = {"apiVersion": "v1", "kind": "NamespaceList", "items": [pod, NAMESPACE]}
    if form == "json":
        document = json.dumps(document).encode()
    first, second = parse.read(document)
    assert first == Refused(
        ObjectKey("Namespace", "", "a"), "kind", "is 'Pod' where a Namespace belongs: put it elsewhere", 0
    )
    assert isinstance(second, Parsed)


def test_a_slice_of_a_thousand_endpoints_comes_whole_and_in_order() -> None:
    addresses = [f"10.{1 + i // 250}.0.{i % 250}" for i in range(1000)]
    document = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [one]} for one in addresses],
    }
    found = parse.decode(json.dumps(document).encode())
    assert isinstance(found, EndpointSlice)
    assert [address.text(one.address) for one in found.endpoints] == addresses
    document["endpoints"][999]["addresses"] = ["10.0.0.256"]  # type: ignore[index]
    with pytest.raises(ObjectError, match=r"endpoints\[999\].addresses\[0\]: '10.0.0.256' is not an address"):
        parse.decode(json.dumps(document).encode())


def test_a_kind_that_the_caller_knows_is_not_looked_up() -> None:
    obj = parse.decode(b'{"metadata": {"name": "s"}, "addressType": "IPv4"}', "EndpointSlice")
    assert isinstance(obj, EndpointSlice)


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        (b"", "", "cut short after 0 bytes"),
        (b'{"kind": "Service",\n "apiVersion"', "", "cut short"),
        (b'{"kind": "Service",\n "apiVersion": v1}', "line 2", "is not JSON"),
        (b'{"kind": "\xff"}', "", "UTF-8"),
        (b'{"unread":' + b"[" * 100_000, "", "nested too deeply"),
    ],
)
def test_json_that_cannot_be_read(text: bytes, path: str, reason: str) -> None:
    (outcome,) = parse.read(text)
    assert isinstance(outcome, Refused)
    assert outcome.key is None
    assert outcome.path == path
    assert reason in outcome.reason


# ----------------------------------------------------------------- mutation

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["None", "10.0.0.1", "fd00::1", "10.0.0.0/8", "::/0", "1.2.3", "a" * 300, "\0", "\ud800"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    match value:
        case dict():
            items: list[tuple[Any, Any]] = list(value.items())
        case list():
            items = list(enumerate(value))
        case _:
            return []
    return [(value, key) for key, _ in items] + [place for _, item in items for place in places(item)]


@st.composite
def mutated(draw: st.DrawFn) -> Any:
    """A valid object of which one to four values were replaced by anything, or removed."""
    document = json.loads(json.dumps(draw(st.sampled_from(VALID_OBJECTS))))
    for _ in range(draw(st.integers(1, 4))):
        found = places(document)
        if not found:
            break
        container, key = found[draw(st.integers(0, len(found) - 1))]
        if draw(st.booleans()):
            container[key] = draw(VALUES)
        else:
            del container[key]
    return document


@unhurried
@given(mutated())
def test_a_mutated_object_is_read_or_refused_and_nothing_else(document: Any) -> None:
    with contextlib.suppress(ObjectError):
        parse.decode(document)
    for outcome in parse.read(document):
        if isinstance(outcome, Refused):
            assert ": " in outcome.reason or "correct it" in outcome.reason, "a reason names its remedy"


@unhurried
@given(mutated())
def test_json_and_builtins_say_the_same(document: Any) -> None:
    try:
        encoded = msgspec.json.encode(document)
    except UnicodeEncodeError:
        return
    from_json, from_builtins = list(parse.read(encoded)), list(parse.read(msgspec.json.decode(encoded)))
    assert [type(one) for one in from_json] == [type(one) for one in from_builtins]
    assert [one.key for one in from_json] == [one.key for one in from_builtins]


@unhurried
@given(st.binary(max_size=200))
def test_random_bytes_as_json(content: bytes) -> None:
    assert all(isinstance(one, Refused) for one in parse.read(content))


@unhurried
@given(
    st.sampled_from(VALID_OBJECTS),
    st.lists(
        st.tuples(st.integers(0, 400), st.text("{}[]-:#&*!|>'\"%@`?,\n\t a1~.\0<=", max_size=3)), max_size=4
    ),
)
def test_a_mutated_yaml_text_never_escapes(document: Any, changes: list[tuple[int, str]]) -> None:
    text = yaml.safe_dump(document)
    for place, insert in changes:
        text = text[:place] + insert + text[place + 1 :]
    content = read_file(text.encode(), "web.yaml")
    assert all(claim.object is not None or claim.reason for claim in content.claims)
    assert all(fault.reason for fault in content.faults)
