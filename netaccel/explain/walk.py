# SPDX-License-Identifier: Apache-2.0
"""The way of a flow: Service → backend → egress at the source's node → ingress at the destination's.

A question may have several ways: one for each backend that may be chosen, each address family, and where a
client from outside may come to several nodes. A way that leads to a backend of another node than the one that
a wire client came to carries that node's address (SNAT), which is what policy sees at the backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from netaccel.errors import QuestionError
from netaccel.explain.ends import PROTOCOLS, End, EndKind, protocol_name
from netaccel.explain.model import Judge, Model
from netaccel.explain.translate import Chosen, Translator, no_such_port, of_port
from netaccel.model.address import Address, family, is_ipv4, parse_address
from netaccel.model.endpoint import PodKey
from netaccel.model.policy import ICMP, ICMPV6, Direction
from netaccel.model.service import ServiceKey
from netaccel.oracle import Judgement, Party, Question, party_of_pod

WORLD = (Party(parse_address("192.0.2.1")), Party(parse_address("2001:db8::1")))
"""Who stands for the world: addresses of documentation (RFC 5737, RFC 3849)."""

_ECHO = {ICMP: 8 << 8, ICMPV6: 128 << 8}
_NOBODY = "no endpoint that could be chosen"
_OUTSIDE = "the client is outside loadBalancerSourceRanges"
_NO_PORT = "the address is a Service's, which has no such port"
_TRANSLATED = frozenset((PROTOCOLS["TCP"], PROTOCOLS["UDP"]))
_WITH_PORTS = frozenset((PROTOCOLS["TCP"], PROTOCOLS["UDP"], PROTOCOLS["SCTP"]))


class Half(NamedTuple):
    """One node's part: what it is asked, and what each judge answers (None: not known).

    ``reasons``: by judge, why it does not know, or why the policy that it names was refused; "": neither.
    """

    direction: Direction
    node: str
    question: Question
    answers: Mapping[str, Judgement | None]
    reasons: Mapping[str, str]

    @property
    def judgement(self) -> Judgement | None:
        """The first judge's that knows."""
        return next((one for one in self.answers.values() if one is not None), None)

    @property
    def reason(self) -> str:
        """The same judge's; of the first where none knows."""
        names = [name for name, one in self.answers.items() if one is not None] or list(self.answers)
        return self.reasons[names[0]]

    @property
    def disagreement(self) -> bool:
        """Whether two judges say different things. What is outside policy the kernel does not tell."""
        known = [(one.enforced, one.shadow) for one in self.answers.values() if one is not None]
        return any(one != known[0] for one in known)


@dataclass(frozen=True)
class Course:
    """One way. ``refused``: why the flow comes to nobody (its halves are empty then)."""

    halves: tuple[Half, ...]
    """EGRESS, then INGRESS."""
    chosen: Chosen | None = None
    translated_at: str = ""
    refused: str = ""

    @cached_property
    def allowed(self) -> bool | None:
        """Whether all of it lets the flow pass; None where that can't be known."""
        if self.refused:
            return False
        found = [None if half.judgement is None else half.judgement.allowed for half in self.halves]
        if False in found:
            return False
        return None if None in found else True

    @property
    def audited(self) -> bool:
        """Whether it passes, and monitor mode would deny it."""
        return bool(self.allowed) and any(
            h.judgement is not None and h.judgement.audited for h in self.halves
        )

    @property
    def ipv4(self) -> bool:
        """Its family at the destination."""
        return not self.halves or is_ipv4(self.halves[-1].question.destination.address)


@dataclass(frozen=True, slots=True)
class Answer:
    """All ways; the first one's family is the one that counts (others are told)."""

    source: End
    destination: End
    courses: tuple[Course, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def counting(self) -> tuple[Course, ...]:
        """Ways of the first family."""
        return tuple(one for one in self.courses if one.ipv4 == self.courses[0].ipv4)

    @property
    def allowed(self) -> bool | None:
        """Whether every way that counts is open; None where that can't be known."""
        found = {one.allowed for one in self.counting}
        if False in found:
            return False
        return None if None in found else True

    @property
    def deciding(self) -> Course:
        """The way to show where only one can be: one that is shut, else unknown, else audited."""
        ranks = {False: 0, None: 1, True: 3}
        return min(self.counting, key=lambda one: 2 if one.audited else ranks[one.allowed])

    @property
    def disagreements(self) -> list[Half]:
        """Halves about which two judges say different things."""
        return [half for one in self.courses for half in one.halves if half.disagreement]


class Walker:
    """Answers questions about one state of the world. The first judge's word counts."""

    def __init__(self, model: Model, judges: Mapping[str, Judge]) -> None:
        self._model = model
        self._judges = judges
        self._translator = Translator(model.world)
        nodes = [node.name for node in model.world.nodes()]
        others = {pod.node_name for pod in model.world.pods()} - {"", *nodes}
        self._nodes = (*nodes, *sorted(others))

    def walk(self, source: End, destination: End, how: How | None = None) -> Answer:
        """Find all ways and have them judged. Raises QuestionError: what can't be asked, and the remedy."""
        how = how or How()
        sources = self._sources(source)
        protocol = how.protocol if how.protocol is not None else destination.protocol
        ask = _Ask(sources, destination.port, protocol, how.icmp, how.one_family)
        if destination.kind is EndKind.SERVICE:
            courses = self._to_service(ask, destination)
        else:
            courses = self._to_parties(ask, destination)
        found = _first_family(courses) if how.one_family else tuple(courses)
        if not found:
            raise QuestionError(f"{source} and {destination} have no address family in common")
        return Answer(source, destination, found)

    # ------------------------------------------------------------------- ends

    def _sources(self, end: End) -> tuple[Party, ...]:
        if end.kind is EndKind.SERVICE:
            raise QuestionError(f"{end}: a Service opens no flows: ask for one of its pods")
        return self._parties(end)

    def _parties(self, end: End) -> tuple[Party, ...]:
        match end.kind:
            case EndKind.WORLD:
                return WORLD
            case EndKind.IP:
                assert end.address is not None
                return (self._model.locate(end.address),)
            case EndKind.POD:
                pod = self._model.world.pod(PodKey(end.namespace, end.name))
                if pod is None:
                    raise QuestionError(f"pod:{end.namespace}/{end.name}: there is no such Pod")
                if not pod.addresses:
                    raise QuestionError(
                        f"pod:{end.namespace}/{end.name} has no address: it has not started, or ended"
                    )
                return tuple(party_of_pod(pod, address) for address in pod.addresses)
            case _:
                node = self._model.world.node(end.name)
                if node is None or not node.addresses:
                    why = "has no address" if node else "there is no such Node"
                    raise QuestionError(f"node:{end.name}: {why}")
                return tuple(Party(address, None, end.name) for address in node.addresses)

    # ------------------------------------------------------- to what is no Service

    def _to_parties(self, ask: _Ask, end: End) -> Iterator[Course]:
        for party in self._parties(end):
            source = _of_family(ask.sources, party.address)
            if source is not None:
                yield from self._to_party(source, party, *ask.number(party.address, end))
                if ask.one_family:
                    return

    def _to_party(self, source: Party, party: Party, protocol: int, port: int) -> Iterator[Course]:
        target = (party.address, port, protocol)
        here = node_of(source)
        if party.pod is not None:  # no frontend
            question = Question(source, party, protocol, port)
            yield self._course(question, question)
            return
        chosen = self._translator.at(here, target, wire=False) if here else None
        if chosen is not None:
            yield from self._translated(source, chosen, here)
            return
        if here and protocol in _TRANSLATED and self._translator.refuses(here, party.address):
            yield Course((), None, here, _NO_PORT)
            return
        arrivals = (party.node,) if party.node else () if here else self._nodes
        first = Question(source, party, protocol, port)
        found = list(self._arriving(first, [(node, target) for node in arrivals if node != here]))
        yield from found or [self._course(first, first)]

    def _arriving(
        self, first: Question, at: Iterable[tuple[str, tuple[Address, int, int]]]
    ) -> Iterator[Course]:
        """Ways of a packet that a node translates which is not the source's."""
        seen: set[tuple[Party, Party]] = set()
        shut: Course | None = None
        for node, target in at:
            chosen = self._translator.at(node, target, wire=True)
            if chosen is None:
                continue
            if why := _refusal(chosen, first.source):
                shut = shut or Course((), chosen, node, why)
                continue
            for address, port in chosen.choices:
                backend = self._model.locate(address)
                kept = node_of(backend) == node
                source = first.source if kept else self._at_node(node, address, first.source)
                alike = (source if kept else Party(address), backend)
                if alike not in seen:
                    seen.add(alike)
                    then = Question(source, backend, first.protocol, port)
                    yield self._course(first, then, chosen, node)
        if shut is not None and not seen:
            yield shut

    def _at_node(self, node: str, like: Address, otherwise: Party) -> Party:
        """A node's own address of a family: what SNAT puts in the packet."""
        known = self._model.world.node(node)
        mine = [a for a in (known.addresses if known else ()) if is_ipv4(a) == is_ipv4(like)]
        return Party(mine[0], None, node) if mine else otherwise._replace(pod=None, node=node)

    def _translated(self, source: Party, chosen: Chosen, node: str) -> Iterator[Course]:
        """Ways through a frontend at the source's own node: no address of the source's changes."""
        if why := _refusal(chosen, source):
            yield Course((), chosen, node, why)
            return
        for address, port in chosen.choices:
            question = Question(source, self._model.locate(address), chosen.protocol, port)
            yield self._course(question, question, chosen, node)

    # ---------------------------------------------------------------- to a Service

    def _to_service(self, ask: _Ask, end: End) -> Iterator[Course]:
        key = ServiceKey(end.namespace, end.name)
        service = self._translator.service(key)
        if ask.protocol is not None and ask.protocol not in _WITH_PORTS:
            name = protocol_name(ask.protocol)
            raise QuestionError(f"service:{key}: Services translate no {name}: ask for a pod's")
        here = node_of(ask.sources[0])
        if service.unserved_reason and not service.cluster_ips:
            yield from self._to_headless(ask, end, key)
            return
        if ignored := service.ignored_by(""):
            raise QuestionError(f"service:{key} is not served: {ignored}")
        if here:
            yield from self._from_node(ask, key, here)
        else:
            yield from self._from_outside(ask, key)

    def _from_node(self, ask: _Ask, key: ServiceKey, node: str) -> Iterator[Course]:
        every = [
            one for one in self._translator.frontends(key, node, wire=False) if one.kind.name == "CLUSTER_IP"
        ]
        found = list(of_port(every, ask.port, ask.protocol))
        if not found:
            raise no_such_port(key, every, ask.port)
        for chosen in found:
            source = _of_family(ask.sources, chosen.address)
            if source is not None:
                yield from self._translated(source, chosen, node)

    def _from_outside(self, ask: _Ask, key: ServiceKey) -> Iterator[Course]:
        """By load balancers' and external addresses and node ports, at whichever node."""
        by_node = [
            (node, one)
            for node in self._nodes
            for one in of_port(self._translator.frontends(key, node, wire=True), None, ask.protocol)
            if one.kind.name != "CLUSTER_IP"
        ]
        wanted = [(node, one) for node, one in by_node if ask.port in (None, one.port, one.port_name)]
        if by_node and not wanted:
            raise no_such_port(key, [one for _, one in by_node], ask.port)
        if not wanted:
            yield Course((), refused="no address of the Service is reached from outside")
            return
        courses: list[Course] = []
        for one in dict.fromkeys((one.address, one.port, one.protocol) for _, one in wanted):
            source = _of_family(ask.sources, one[0])
            if source is not None:
                at = [(node, one) for node, c in wanted if (c.address, c.port, c.protocol) == one]
                courses += self._arriving(Question(source, Party(one[0]), one[2], one[1]), at)
        yield from courses or [Course((), refused=_NOBODY)]

    def _to_headless(self, ask: _Ask, end: End, key: ServiceKey) -> Iterator[Course]:
        """The name stands for the endpoints themselves; the port is the client's choice."""
        addresses = self._translator.direct(key, "")
        if not addresses:
            yield Course((), refused=_NOBODY)
        for address in addresses:
            source = _of_family(ask.sources, address)
            if source is not None:
                question = Question(source, self._model.locate(address), *ask.number(address, end))
                yield self._course(question, question)

    # ------------------------------------------------------------------- verdicts

    def _course(self, out: Question, into: Question, chosen: Chosen | None = None, node: str = "") -> Course:
        egress = self._half(Direction.EGRESS, node_of(out.source), out)
        ingress = self._half(Direction.INGRESS, node_of(into.destination), into)
        return Course((egress, ingress), chosen, node)

    def _half(self, direction: Direction, node: str, question: Question) -> Half:
        answers = {name: judge.ask(direction, question) for name, judge in self._judges.items()}
        reasons = {
            name: self._judges[name].why_unknown(direction, question)
            if one is None
            else self._model.refusal(one)
            for name, one in answers.items()
        }
        return Half(direction, node, question, answers, reasons)


class How(NamedTuple):
    """What a question says beside its ends. ``icmp``: 256 × type + code, None: an echo request.

    ``one_family``: ways of the family that counts alone.
    """

    protocol: int | None = None
    icmp: int | None = None
    one_family: bool = False


class _Ask(NamedTuple):
    sources: tuple[Party, ...]
    port: int | str | None
    protocol: int | None
    icmp: int | None
    one_family: bool

    def number(self, address: Address, end: End) -> tuple[int, int]:
        """Protocol and port of a flow to this address. Raises QuestionError where the port is missing."""
        protocol = PROTOCOLS["TCP"] if self.protocol is None else self.protocol
        if protocol in _ECHO:
            protocol = ICMP if is_ipv4(address) else ICMPV6
            return protocol, _ECHO[protocol] if self.icmp is None else self.icmp
        if protocol not in _WITH_PORTS:
            return protocol, 0
        if not isinstance(self.port, int):
            name = protocol_name(protocol)
            raise QuestionError(
                f"{end}: which {name} port? Give {end._replace(port=None)}:PORT, or --protocol ICMP"
            )
        return protocol, self.port


def _first_family(courses: Iterator[Course]) -> tuple[Course, ...]:
    """Ways of the first one's family; those of the other come after them, and are not asked for."""
    found: list[Course] = []
    for course in courses:
        if found and course.ipv4 != found[0].ipv4:
            break
        found.append(course)
    return tuple(found)


def _refusal(chosen: Chosen, client: Party) -> str:
    """Why a frontend serves nobody, or not this client; "" where it does."""
    if not chosen.serves(client):
        return _OUTSIDE
    return "" if chosen.choices else _NOBODY


def node_of(party: Party) -> str:
    """The node that an end is on; "" for the world."""
    return party.pod.node_name if party.pod is not None else party.node


def _of_family(parties: Iterable[Party], address: Address) -> Party | None:
    return next((one for one in parties if family(one.address) == family(address)), None)
