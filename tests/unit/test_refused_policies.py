# SPDX-License-Identifier: Apache-2.0
"""A policy that can't be used: its last good version stays, else its subject is denied (design: Policy).

The same from files and from an API server: the world after each step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Protocol

import msgspec
import pytest
import yaml

from netaccel.model.event import Event, ObjectKey, Reject
from netaccel.model.policy import Action, Kind, Operator, Policy, PolicyKey, Requirement, Rule
from netaccel.model.snapshot import World
from netaccel.sources.documents import read_file
from netaccel.sources.kubernetes import wire
from netaccel.sources.kubernetes.told import Told
from netaccel.sources.ledger import Ledger

KEY = PolicyKey(Kind.NETWORK, "shop", "web")
DENY = Rule(Action.DROP, None, None)


def policy(name: str = "web", app: object = "web", **spec: object) -> dict[str, object]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, **spec},
    }


GOOD = policy(policyTypes=["Ingress"])
NONSENSE = policy(policyTypes=["Sideways"])
OTHER_NONSENSE = policy(app="db", ingress=7)
NOBODYS_NONSENSE = policy(app=[1], ingress=7)


class Feed(Protocol):
    """A source and the world that it makes."""

    world: World

    def has(self, *objects: dict[str, object]) -> None: ...


class FromFile:
    """One manifest file with these objects."""

    def __init__(self) -> None:
        self.world = World()
        self.ledger = Ledger()

    def has(self, *objects: dict[str, object], torn: bool = False) -> None:
        text = yaml.safe_dump_all(objects) + ("\n---\n{" if torn else "")
        content = read_file(text.encode(), "p.yaml") if objects or torn else None
        self.world.apply_all(self.ledger.update({"p.yaml": content}, 1.0))


class FromApi:
    """A list of the API server, again and again."""

    def __init__(self) -> None:
        self.world = World()
        self.told = Told("NetworkPolicy", "/apis/networking.k8s.io/v1/networkpolicies")

    def has(self, *objects: dict[str, object]) -> None:
        self.world.apply_all(self.listed(objects))

    def listed(self, objects: Iterable[dict[str, object]]) -> list[Event]:
        self.told.begin_list()
        events: list[Event] = []
        for one in objects:
            document = msgspec.Raw(json.dumps(one).encode())
            events += self.told.there(document, wire.head(document), 1.0)
        return [*events, *self.told.end_list(1.0)]


@pytest.fixture(params=[FromFile, FromApi])
def feed(request: pytest.FixtureRequest) -> Feed:
    made: Feed = request.param()
    return made


def selected(found: Policy | None) -> str:
    """The app that a policy is about; "" without a policy."""
    if found is None:
        return ""
    (requirement,) = found.subject.pods
    assert requirement == Requirement("app", Operator.IN, requirement.values)
    return requirement.values[0]


def denies(feed: Feed) -> str:
    """The app that is denied; "" where none is."""
    found = feed.world.policy(KEY)
    if found is None or not found.denies:
        return ""
    assert found.ingress == found.egress == (DENY,)
    return selected(found)


def test_a_good_policy_that_is_edited_into_nonsense_stays_as_it_was(feed: Feed) -> None:
    feed.has(GOOD)
    before = feed.world.policy(KEY)
    assert before is not None
    assert not before.denies
    feed.has(NONSENSE)
    assert feed.world.policy(KEY) is before
    (reject,) = feed.world.rejections()
    assert reject.path == "spec.policyTypes[0]"
    assert "give Ingress or Egress" in reject.reason
    feed.has(GOOD)
    assert feed.world.policy(KEY) == before
    assert feed.world.rejections() == ()


def test_a_policy_that_is_nonsense_when_first_seen_denies_its_subject(feed: Feed) -> None:
    feed.has(NONSENSE)
    assert denies(feed) == "web"
    assert feed.world.drain_changes() == {ObjectKey("NetworkPolicy", "shop", "web")}


def test_other_nonsense_denies_its_own_subject(feed: Feed) -> None:
    feed.has(NONSENSE)
    feed.has(OTHER_NONSENSE)
    assert denies(feed) == "db"


def test_nonsense_that_is_mended_is_in_force_and_denies_no_more(feed: Feed) -> None:
    feed.has(NONSENSE)
    feed.has(GOOD)
    found = feed.world.policy(KEY)
    assert found is not None
    assert not found.denies
    assert feed.world.rejections() == ()


@pytest.mark.parametrize("before", [[], [GOOD]], ids=["never-good", "once-good"])
def test_nonsense_that_is_deleted_is_gone(feed: Feed, before: list[dict[str, object]]) -> None:
    feed.has(*before)
    feed.has(NONSENSE)
    feed.has()
    assert dict(feed.world.policies()) == {}
    assert feed.world.rejections() == ()


def test_nonsense_without_a_readable_subject_has_no_effect_and_is_said(feed: Feed) -> None:
    feed.has(NOBODYS_NONSENSE)
    assert dict(feed.world.policies()) == {}
    (reject,) = feed.world.rejections()
    assert (reject.key, reject.fallback) == (ObjectKey("NetworkPolicy", "shop", "web"), None)


def test_what_stands_in_harms_no_other_policy(feed: Feed) -> None:
    other = policy("other", "api", policyTypes=["Egress"])
    feed.has(NONSENSE, other)
    assert denies(feed) == "web"
    assert selected(feed.world.policy(PolicyKey(Kind.NETWORK, "shop", "other"))) == "api"


def test_a_file_that_is_torn_meanwhile_takes_nothing_back() -> None:
    feed = FromFile()
    feed.has(NONSENSE)
    feed.has(torn=True)
    assert denies(feed) == "web"
    assert {reject.key is None for reject in feed.world.rejections()} == {True, False}
    feed.has()
    assert dict(feed.world.policies()) == {}


def test_a_second_file_with_the_same_name_is_refused_without_denying_anybody() -> None:
    world, ledger = World(), Ledger()
    first, second = (yaml.safe_dump(one).encode() for one in (GOOD, OTHER_NONSENSE))
    contents = {"a.yaml": read_file(first, "a.yaml"), "b.yaml": read_file(second, "b.yaml")}
    events = ledger.update(contents, 1.0)
    assert [one.fallback for one in events if isinstance(one, Reject)] == [None]
    world.apply_all(events)
    assert selected(world.policy(KEY)) == "web"
