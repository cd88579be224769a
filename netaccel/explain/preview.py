# SPDX-License-Identifier: Apache-2.0
"""What policies that are not applied would have made of recorded traffic. Pure.

Every edge is judged twice by the same evaluator, with the policies as they are and as they would be: what
differs is the change's doing, whatever policies were in force when the edge was met.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import NamedTuple

from netaccel.model.address import Address
from netaccel.model.endpoint import Pod, PodKey
from netaccel.model.policy import (
    CidrPeer,
    Direction,
    Mode,
    Peer,
    Policy,
    PolicyKey,
    RuleRef,
    ServicePeer,
)
from netaccel.model.snapshot import World
from netaccel.observe.edges.edge import Edge, EdgeKey, End, Verdict, Where, Window
from netaccel.oracle import Judgement, Party, Question, judge
from netaccel.oracle.match import contains, selects_pod


class Changes(NamedTuple):
    """Policies that are added or take the place of those of the same key (``put``), and that go."""

    put: tuple[Policy, ...] = ()
    removed: frozenset[PolicyKey] = frozenset()

    def enforced(self) -> Changes:
        """The same with policies in monitor mode read as enforced."""
        return self._replace(put=tuple(replace(policy, mode=Mode.ENFORCE) for policy in self.put))


@dataclass(frozen=True, slots=True)
class Change:
    """An edge whose verdict would be another one. ``notes``: why the answer may not be exact."""

    edge: Edge
    now: Verdict
    now_rule: RuleRef | None
    then: Verdict
    then_rule: RuleRef | None
    notes: tuple[str, ...] = ()

    @property
    def breaks(self) -> bool:
        """Whether what is carried now, and was when it was met, would not be any more."""
        denied = self.then is Verdict.DENIED and self.now is not Verdict.DENIED
        return denied and self.edge.key.verdict is not Verdict.DENIED


@dataclass(frozen=True, slots=True)
class Preview:
    """The answer. ``changes``: newest first. ``edges``: looked at. ``touched``: those that a changed policy
    is about. ``unseen``: what the record can't tell of, a line each.
    """

    changes: tuple[Change, ...]
    edges: int
    touched: int
    unseen: tuple[str, ...] = field(default=())

    def breaking(self) -> list[Change]:
        """Those that would not be carried any more."""
        return [change for change in self.changes if change.breaks]


def preview(world: World, changes: Changes, edges: Iterable[Edge]) -> Preview:
    """Judge every edge with and without the changes."""
    judges = _Judges(world, changes)
    found: list[Change] = []
    count = touched = 0
    uncertain: Counter[str] = Counter()
    for edge in edges:
        count += 1
        pair = judges.pair(edge.key)
        if pair is None:
            if judges.is_nobodys(edge.key):
                uncertain[NOBODYS] += 1
            continue
        touched += 1
        uncertain.update(pair.notes)
        now, then = verdict(pair.now), verdict(pair.then)
        if now is not then:
            found.append(Change(edge, now, pair.now.rule, then, pair.then.rule, pair.notes))
    found.sort(key=lambda change: -change.edge.last)
    return Preview(tuple(found), count, touched, tuple(_doubts(uncertain)))


def verdict(judgement: Judgement) -> Verdict:
    """In the words of edges."""
    if not judgement.allowed:
        return Verdict.DENIED
    return Verdict.AUDITED if judgement.audited else Verdict.ALLOWED


# ---------------------------------------------------------------------- judging


class _Pair(NamedTuple):
    """One edge's verdicts as policies are and as they would be."""

    now: Judgement
    then: Judgement
    notes: tuple[str, ...]


class _Subject:
    """Policies that select a pod, now and then; ``touched``: whether a changed one is among them.

    What they can tell two peers apart by is a peer's facet; verdicts are kept by it.
    """

    def __init__(self, now: tuple[Policy, ...], then: tuple[Policy, ...], *, touched: bool) -> None:
        self.now, self.then, self.touched = now, then, touched
        peers = [peer for policy in (*now, *then) for peer in _peers(policy)]
        blocks = (peer for peer in peers if isinstance(peer, CidrPeer))
        self._cidrs = tuple({cidr for peer in blocks for cidr in (peer.cidr, *peer.excepts)})
        self._exact = any(isinstance(peer, ServicePeer) for peer in peers)  # it may name addresses
        self._blocks: dict[Address, object] = {}
        self.verdicts: dict[tuple[object, ...], tuple[Judgement, Judgement]] = {}

    def facet(self, party: Party) -> tuple[object, ...]:
        """Two ends with the same one are the same to these policies."""
        pod = party.pod
        known = (pod.key.namespace, pod.labels, pod.ports, pod.node_name) if pod else None
        return known, party.node, self._place(party.address)

    def _place(self, address: Address) -> object:
        if self._exact:
            return address
        found = self._blocks.get(address)
        if found is None:
            found = self._blocks[address] = tuple(contains(cidr, address) for cidr in self._cidrs)
        return found


def _peers(policy: Policy) -> Iterable[Peer]:
    return (peer for rule in (*policy.ingress, *policy.egress) for peer in rule.peers or ())


class _Judges:
    """The evaluator with what many edges share."""

    def __init__(self, world: World, changes: Changes) -> None:
        self._world = world
        self._changes = changes
        gone = changes.removed | {policy.key for policy in changes.put}
        self._kept = [policy for key, policy in world.policies().items() if key not in gone]
        self._old = [policy for key, policy in world.policies().items() if key in gone]
        self._subjects: dict[tuple[object, ...], _Subject] = {}
        self._parties: dict[tuple[End, bool], tuple[Party, tuple[str, ...]]] = {}

    def pair(self, key: EdgeKey) -> _Pair | None:
        """None where no changed policy is about the edge's subject: its verdict stays."""
        source, notes_there = self._party(key.source, own=key.direction is Direction.EGRESS)
        destination, notes_here = self._party(key.destination, own=key.direction is Direction.INGRESS)
        pod = (destination if key.direction is Direction.INGRESS else source).pod
        if pod is None:
            return None
        subject = self._subject(pod)
        if not subject.touched:
            return None
        question = Question(source, destination, key.protocol, key.port)
        same = (
            source.pod is not None and destination.pod is not None and source.pod.key == destination.pod.key
        )
        facets = subject.facet(source), subject.facet(destination)
        alike = (key.direction, same, facets, key.protocol, key.port)
        found = subject.verdicts.get(alike)
        if found is None:
            found = subject.verdicts[alike] = (
                judge(self._world, key.direction, question, subject.now),
                judge(self._world, key.direction, question, subject.then),
            )
        return _Pair(*found, (*notes_there, *notes_here))

    def is_nobodys(self, key: EdgeKey) -> bool:
        """Whether nobody knows whose policy was asked."""
        subject = key.subject
        return subject.where is Where.WORLD and subject.address not in self._pods

    def _subject(self, pod: Pod) -> _Subject:
        known = (pod.key.namespace, pod.labels, pod.host_network)
        found = self._subjects.get(known)
        if found is None:
            old = self._selecting(self._old, pod)
            new = self._selecting(self._changes.put, pod)
            kept = self._selecting(self._kept, pod) if old or new else ()
            found = self._subjects[known] = _Subject((*kept, *old), (*kept, *new), touched=bool(old or new))
        return found

    def _selecting(self, policies: Iterable[Policy], pod: Pod) -> tuple[Policy, ...]:
        return tuple(policy for policy in policies if selects_pod(self._world, policy, pod))

    def _party(self, end: End, *, own: bool) -> tuple[Party, tuple[str, ...]]:
        """``own``: the edge is of this end's device, so it is a pod even where that was not known then."""
        found = self._parties.get((end, own))
        if found is None:
            pod = self._pods.get(end.address) if own and end.where is Where.WORLD else None
            unknown = (Party(end.address, pod), (UNKNOWN,)) if pod else None
            found = self._parties[end, own] = unknown or party(self._world, end)
        return found

    @cached_property
    def _pods(self) -> dict[Address, Pod]:
        pods = (pod for pod in self._world.pods() if not pod.host_network)
        return {address: pod for pod in pods for address in pod.addresses}


GONE = "pod gone: judged by the labels that it had"
CHANGED = "labels changed since: judged by those that it has now"
MOVED = "address changed since: judged by the one that it had"
UNKNOWN = "pod not known yet when it was recorded: judged by the one that has its address now"
NOBODYS = "pod that was not known then and is gone: not judged"
HOST = "pod on the host's network now: no policy is about it"


def party(world: World, end: End) -> tuple[Party, tuple[str, ...]]:
    """Who the end is now, and what is not as it was. A pod that is gone is judged as it was."""
    match end.where:
        case Where.WORLD:
            return Party(end.address), ()
        case Where.NODE:
            return Party(end.address, None, end.name), ()
    key = PodKey(end.namespace, end.name)
    pod = world.pod(key)
    if pod is None:
        stand_in = Pod(key, end.node, (end.address,), end.labels, end.ports)
        return Party(end.address, stand_in), (GONE,)
    if pod.host_network:
        return Party(end.address, None, pod.node_name), (HOST,)
    notes = []
    if dict(pod.labels) != dict(end.labels):
        notes.append(CHANGED)
    if end.address not in pod.addresses:
        notes.append(MOVED)
    return Party(end.address, pod), tuple(notes)


# --------------------------------------------------------- what is not seen


def _doubts(uncertain: Mapping[str, int]) -> Iterable[str]:
    for note, count in sorted(uncertain.items()):
        yield f"{count} end{'s' if count > 1 else ''} of edges: {note}"


def stamp(seconds: float) -> str:
    """``2026-01-31T12:00:00Z``."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def blind(window: Window, since: float) -> list[str]:
    """What the record can't tell of the time from ``since`` (seconds since the epoch) on."""
    found = []
    if not window.since:
        return ["nothing was recorded"]
    if window.since > since:
        found.append(f"before {stamp(window.since)}: the record begins there")
    for began, ended in window.gaps:
        if ended > since:
            found.append(f"{stamp(max(began, since))} to {stamp(ended)}: no agent recorded")
    if window.forgotten is not None and window.forgotten > since:
        found.append(
            f"edges last met before {stamp(window.forgotten)} were removed for their age or for room"
            " (edgeDays, edgeMegabytes)"
        )
    if window.lost:
        found.append(f"{window.lost} flows could not be recorded")
    return found
