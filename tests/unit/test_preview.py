# SPDX-License-Identifier: Apache-2.0
"""Monitor and preview tell the truth about a recorded hour, and say what they could not see.

The hour: a thousand flows between pods, nodes and strangers, judged one by one as a node would, told as flow
records, recorded in a file. The truth: the same flows judged one by one in a world that has the new policy.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from netaccel.explain.preview import (
    CHANGED,
    GONE,
    MOVED,
    NOBODYS,
    UNKNOWN,
    Changes,
    Preview,
    blind,
    preview,
    verdict,
)
from netaccel.model.address import is_ipv4, parse_address, text
from netaccel.model.endpoint import (
    ContainerPort,
    Endpoint,
    EndpointSlice,
    Namespace,
    Node,
    Pod,
    PodKey,
    SliceKey,
)
from netaccel.model.event import Delete, Object, ObjectKey, Upsert, object_key
from netaccel.model.policy import Direction, Mode, Policy, PolicyKey
from netaccel.model.service import Protocol, Service, ServiceKey
from netaccel.model.snapshot import World
from netaccel.observe.edges.edge import Edge, EdgeKey, End, Verdict, Where, Window
from netaccel.observe.edges.reader import read
from netaccel.observe.edges.recorder import EdgeRecorder
from netaccel.observe.edges.store import Limits
from netaccel.observe.edges.told import EdgeListener
from netaccel.observe.flows import record as flows
from netaccel.observe.flows.record import FlowRecord, RuleName
from netaccel.oracle import Judgement, Party, Question, judge, locate
from netaccel.sources.documents import read_file

NOW = 1_700_000_000.0
HOUR = 3600.0
APPS = ("web", "api", "db", "cache", "job")
NODES = [Node(f"node-{n}", (parse_address(f"172.30.0.{n}"),)) for n in (1, 2)]
STRANGERS = [
    parse_address(a) for a in ("192.0.2.1", "198.51.100.7", "198.51.100.8", "169.254.169.254", "2001:db8::9")
]

BEFORE = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {}}], ports: [{port: pg}]}]
---
apiVersion: netaccel.io/v1alpha1
kind: TrafficPolicy
metadata: {name: web, namespace: shop}
spec:
  subject: {pods: {matchLabels: {app: web}}}
  egress: [{action: Drop, to: [{cidr: 169.254.169.254/32}]}]
"""
STRICTER = """
apiVersion: netaccel.io/v1alpha1
kind: TrafficPolicy
metadata: {name: web, namespace: shop}
spec:
  subject: {pods: {}}
  ingress:
    - action: Allow
      from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{name: pg}, {port: 8080, endPort: 8090}]
    - {action: Reject, from: [{cidr: 192.0.2.0/24}]}
  egress:
    - {action: Drop, to: [{cidr: 169.254.169.254/32}]}
    - {action: Drop, to: [{namespaceSelector: {}, podSelector: {matchLabels: {app: job}}}]}
"""
OUTSIDE = """
apiVersion: netaccel.io/v1alpha1
kind: TrafficPolicy
metadata: {name: outside, namespace: shop}
spec:
  subject: {pods: {matchLabels: {app: api}}}
  egress:
    - {action: Drop, to: [{service: {name: partner}}]}
    - {action: Drop, to: [{entity: node}], ports: [{port: 8080}]}
"""
PARTNER = ServiceKey("shop", "partner")
"""A Service without a selector: its slice names an address."""


def policies(text: str) -> list[Policy]:
    found = read_file(text.encode(), "a.yaml")
    assert found.complete
    objects = [claim.object for claim in found.claims]
    assert all(isinstance(one, Policy) for one in objects), found.claims
    return [one for one in objects if isinstance(one, Policy)]


def world(objects: Iterable[Object]) -> World:
    found = World("node-1")
    for obj in objects:
        found.apply(Upsert(object_key(obj), obj, 0.0))
    return found


def pods() -> list[Pod]:
    found = []
    for number, (space, app) in enumerate(itertools.product(("shop", "bank"), APPS), 1):
        addresses = (parse_address(f"10.1.0.{number}"), parse_address(f"fd00::{number:x}"))
        ports = (ContainerPort("pg", Protocol.TCP, 5432),) if app == "db" else ()
        found.append(Pod(PodKey(space, f"{app}-0"), "node-1", addresses, (("app", app),), ports))
    return found


def cluster(*texts: str) -> World:
    spaces = [Namespace("shop", (("team", "red"),)), Namespace("bank")]
    partner = Service(PARTNER, "ClusterIP", ())
    behind = EndpointSlice(SliceKey("shop", "partner-1"), PARTNER, (), (Endpoint(STRANGERS[1]),))
    return world([*NODES, *spaces, partner, behind, *pods(), *(p for text in texts for p in policies(text))])


# ------------------------------------------------------------ an hour's traffic


def ping(address: bytes) -> tuple[int, int]:
    return (1, 8 << 8) if is_ipv4(address) else (58, 128 << 8)


def hour(there: World, seed: int, count: int = 1000) -> list[tuple[float, Direction, Question]]:
    """Flows as the node's devices meet them: pod to pod both ways, each end judged."""
    rng = random.Random(seed)
    own = [a for pod in there.pods() for a in pod.addresses]
    others = [*own, *STRANGERS, *(a for node in there.nodes() for a in node.addresses)]
    found = []
    for number in range(count):
        at = NOW - HOUR + HOUR * number / count
        ours, theirs = rng.choice(own), rng.choice(others)
        if is_ipv4(ours) != is_ipv4(theirs):
            continue
        source, destination = rng.choice(((ours, theirs), (theirs, ours)))
        protocol, port = rng.choice(((6, 5432), (6, 8080), (6, 8091), (17, 53), ping(ours)))
        question = Question(locate(there, source), locate(there, destination), protocol, port)
        if question.source.pod:
            found.append((at, Direction.EGRESS, question))
        if question.destination.pod:
            found.append((at, Direction.INGRESS, question))
    return found


def told(at: float, direction: Direction, question: Question, judged: Judgement) -> FlowRecord:
    """What the agent's flow log would say."""
    protocol = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}[question.protocol]
    icmp = question.protocol in (1, 58)
    denied = not judged.allowed
    return FlowRecord(
        node="node-1",
        boot="b",
        sequence=1,
        time=int(at * 1e9),
        monotonic=0,
        type="drop" if denied else "new",
        verdict="dropped" if denied else "audited" if judged.audited else "forwarded",
        direction=direction.name.lower(),
        protocol=protocol,
        source=end(question.source),
        destination=end(question.destination),
        source_port=0 if icmp else 40_000,
        destination_port=0 if icmp else question.port,
        reason="policy_denied" if denied else "",
        rule=rule(judged.enforced),
        shadow_rule=rule(judged.shadow),
        tcp_flags="SYN" if protocol == "TCP" else "",
        icmp_type=question.port >> 8 if icmp else None,
        icmp_code=question.port & 255 if icmp else None,
    )


def end(party: Party) -> flows.End:
    shown = text(party.address)
    if pod := party.pod:
        return flows.End(shown, "pod", *pod.key, pod.node_name, dict(pod.labels))
    return flows.End(shown, "node", "", party.node) if party.node else flows.End(shown, "world")


def rule(outcome: object) -> RuleName | None:
    ref = outcome.rule  # type: ignore[attr-defined]
    if ref is None:
        return None
    key = ref.policy
    return RuleName(1, key.kind.value, key.namespace, key.name, ref.direction.name.lower(), ref.number)


async def recorded(there: World, traffic: list[tuple[float, Direction, Question]], path: Path) -> list[Edge]:
    recorder = EdgeRecorder(path, Limits(), wall=lambda: NOW)
    listener = EdgeListener(recorder, there.pod)
    listener([told(*one, judge(there, *one[1:])) for one in traffic])
    await recorder.flush()
    recorder.close()
    return read(path)[1]


Met = tuple[str, str, int, int, Direction]


def met(key: EdgeKey) -> Met:
    return text(key.source.address), text(key.destination.address), key.protocol, key.port, key.direction


def asked(direction: Direction, question: Question) -> Met:
    ends = text(question.source.address), text(question.destination.address)
    return *ends, question.protocol, question.port, direction


def verdicts(there: World, traffic: list[tuple[float, Direction, Question]]) -> dict[Met, Verdict]:
    """The truth: every flow judged in this world."""
    return {asked(*one[1:]): verdict(judge(there, *one[1:])) for one in traffic}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("new", [STRICTER, STRICTER + "---" + OUTSIDE], ids=["stricter", "and-outside"])
async def test_preview_tells_the_truth_about_a_recorded_hour(new: str, seed: int, tmp_path: Path) -> None:
    before, after = cluster(BEFORE), cluster(BEFORE, new)
    traffic = hour(before, seed)
    edges = await recorded(before, traffic, tmp_path / "edges.db")
    was, would_be = verdicts(before, traffic), verdicts(after, traffic)
    found = preview(before, Changes(tuple(policies(new))), edges)
    truth = {one: (was[one], would_be[one]) for one in was if was[one] is not would_be[one]}
    assert {met(change.edge.key): (change.now, change.then) for change in found.changes} == truth
    assert len(truth) > 50, "an hour in which nothing happens proves nothing"
    assert {met(change.edge.key) for change in found.breaking()} == {
        one for one, (now, then) in truth.items() if then is Verdict.DENIED
    }
    flows_met = [asked(*one[1:]) for one in traffic]
    assert {met(c.edge.key): c.edge.count for c in found.changes} == {
        one: flows_met.count(one) for one in truth
    }
    assert found.unseen == ()
    lasts = [change.edge.last for change in found.changes]
    assert lasts == sorted(lasts, reverse=True), "newest first"


@pytest.mark.parametrize("seed", range(3))
async def test_an_hour_under_monitor_says_what_preview_said_of_the_hour_before(
    seed: int, tmp_path: Path
) -> None:
    """The policy beside the others in monitor mode; then the same enforced; then the preview of that."""
    new = [
        replace(one, key=PolicyKey(one.key.kind, "shop", "new"), mode=Mode.MONITOR)
        for one in policies(STRICTER)
    ]
    before = cluster(BEFORE)
    traffic = hour(before, seed)
    edges = await recorded(before, traffic, tmp_path / "plain.db")
    would_break = {met(c.edge.key) for c in preview(before, Changes(tuple(new)).enforced(), edges).breaking()}

    watched = cluster(BEFORE)
    for one in new:
        watched.apply(Upsert(object_key(one), one, 0.0))
    under_monitor = await recorded(watched, traffic, tmp_path / "monitor.db")
    audited = {met(edge.key) for edge in under_monitor if edge.key.verdict is Verdict.AUDITED}
    assert audited == would_break
    assert audited
    assert {
        edge.key.rule.policy
        for edge in under_monitor
        if edge.key.verdict is Verdict.AUDITED and edge.key.rule
    } == {new[0].key}, "and every one names the policy that would have denied it"
    as_it_is = preview(before, Changes(tuple(new)), edges)
    assert as_it_is.breaking() == [], "in monitor mode nothing breaks"
    assert {met(c.edge.key) for c in as_it_is.changes if c.then is Verdict.AUDITED} == would_break


async def test_to_delete_a_policy_is_to_add_it_backwards(tmp_path: Path) -> None:
    with_it, without = cluster(BEFORE), cluster()
    traffic = hour(with_it, 7)
    edges = await recorded(with_it, traffic, tmp_path / "edges.db")
    keys = frozenset(policy.key for policy in policies(BEFORE))
    found = preview(with_it, Changes(removed=keys), edges)
    was, would_be = verdicts(with_it, traffic), verdicts(without, traffic)
    truth = {one: (was[one], would_be[one]) for one in was if was[one] is not would_be[one]}
    assert {met(change.edge.key): (change.now, change.then) for change in found.changes} == truth
    assert truth
    assert found.breaking() == []


# ------------------------------------------------------- what can't be known


WEB = End(Where.POD, parse_address("10.1.0.1"), "shop", "web-0", "node-1", (("app", "web"),))
DB = End(Where.POD, parse_address("10.1.0.3"), "shop", "db-0", "node-1", (("app", "db"),))
METADATA = End(Where.WORLD, parse_address("169.254.169.254"))
DENY_ALL = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: all, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}
"""


def edge(source: End = WEB, verdict: Verdict = Verdict.ALLOWED) -> Edge:
    return Edge(EdgeKey(source, METADATA, 6, 80, Direction.EGRESS, verdict), NOW - 60, NOW)


def deny_all(there: World, *edges: Edge) -> Preview:
    return preview(there, Changes(tuple(policies(DENY_ALL))), edges)


def test_a_pod_that_is_gone_is_judged_as_it_was_and_it_is_said() -> None:
    there = cluster()
    there.apply(Delete(ObjectKey("Pod", "shop", "web-0"), 0.0))
    found = deny_all(there, edge())
    assert found.breaking()[0].notes == (GONE,)
    assert found.unseen == (f"1 end of edges: {GONE}",)


def test_a_pod_with_other_labels_is_judged_by_those_it_has() -> None:
    there = cluster()
    old = WEB._replace(labels=(("app", "other"),))
    assert deny_all(there, edge(old)).breaking()[0].notes == (CHANGED,)
    gone = End(Where.POD, WEB.address, "shop", "web-9", "node-1", (("app", "other"),))
    assert deny_all(there, edge(gone)).changes == ()


def test_a_pod_that_has_another_address_now_is_judged_by_the_one_it_had() -> None:
    found = deny_all(cluster(), edge(WEB._replace(address=parse_address("10.1.0.99"))))
    assert found.breaking()[0].notes == (MOVED,)


def test_a_pod_whose_first_packets_came_before_its_address_was_known_is_found_by_it() -> None:
    stranger = End(Where.WORLD, WEB.address)
    assert deny_all(cluster(), edge(stranger)).breaking()[0].notes == (UNKNOWN,)
    gone = deny_all(cluster(), edge(End(Where.WORLD, parse_address("10.9.9.9"))))
    assert (gone.touched, gone.unseen) == (0, (f"1 end of edges: {NOBODYS}",))


def test_what_was_not_carried_does_not_break() -> None:
    found = deny_all(cluster(), edge(verdict=Verdict.DENIED))
    assert [change.then for change in found.changes] == [Verdict.DENIED], "but its verdict would be another"
    assert found.breaking() == []


def test_pods_that_no_changed_policy_is_about_are_not_judged() -> None:
    found = deny_all(cluster(), edge(DB), edge(WEB))
    assert (found.edges, found.touched) == (2, 1)


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (Window(0, 0), ["nothing was recorded"]),
        (Window(NOW - HOUR, NOW), []),
        (Window(NOW - 60, NOW), ["before 2023-11-14T22:12:20Z: the record begins there"]),
        (
            Window(NOW - HOUR, NOW, ((NOW - 5000, NOW - 4000), (NOW - 50, NOW - 10))),
            ["2023-11-14T22:12:30Z to 2023-11-14T22:13:10Z: no agent recorded"],
        ),
        (Window(NOW - HOUR, NOW, forgotten=NOW - 5000), []),
        (Window(NOW - HOUR, NOW, lost=3), ["3 flows could not be recorded"]),
    ],
)
def test_the_window_says_what_it_could_not_see(window: Window, said: list[str]) -> None:
    assert blind(window, NOW - HOUR) == said


def test_edges_that_were_removed_are_said() -> None:
    (line,) = blind(Window(NOW - HOUR, NOW, forgotten=NOW - 50), NOW - HOUR)
    assert line.startswith("edges last met before 2023-11-14T22:12:30Z were removed")
