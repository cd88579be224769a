# SPDX-License-Identifier: Apache-2.0
"""Answers as plain values, for JSON and for tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypedDict

from netaccel.explain.ends import protocol_name
from netaccel.explain.walk import Answer, Course, Half, node_of
from netaccel.model.address import endpoint_text, text
from netaccel.model.policy import NO_RULE, Direction, RuleRef
from netaccel.oracle import Exempt, Judgement, Outcome, Party, Step

Origin = Callable[[RuleRef], str]
"""Where a rule is written, ``FILE:LINE``; "" where that isn't known."""

_POD_HOOK = {
    Direction.EGRESS: "tc of the pod's device, from the pod",
    Direction.INGRESS: "tc of the pod's device, to the pod",
}
Tell = Callable[[Half], Iterable[Step]]
"""How a half's verdict came about."""

UNKNOWN = "unknown"
REFUSED = "refused"
_WHY = {
    Exempt.NO_POD: "no pod",
    Exempt.SELF: "self",
    Exempt.OWN_NODE: "own node",
    Exempt.NEIGHBOURS: "neighbours",
}


class VerdictView(TypedDict):
    """One direction's verdict.

    ``verdict``: forwarded, dropped, audited, unknown. ``action``: Allow, Drop or Reject; of an audited flow
    the shadow's, as ``object`` ("KIND NS/NAME") and ``rule`` (from 0; None: no rule) are. ``why``: ``rule``,
    ``isolated``, ``refused`` (the object can't be used, and denies for that), ``default``, ``unknown``, or
    what puts it outside policy. ``reason``: why it was refused, or is not known. ``at``: FILE:LINE of the
    rule.
    """

    verdict: str
    allowed: bool | None
    action: str | None
    object: str | None
    rule: int | None
    why: str
    reason: str
    at: str


class HalfView(VerdictView):
    """A verdict with the node that gives it, and the hook.

    ``by``: each judge's, where there are several. ``steps``: every rule that could decide, where asked for.
    """

    direction: str
    node: str
    hook: str
    source: str
    destination: str
    by: dict[str, VerdictView]
    steps: list[str]


class CourseView(TypedDict):
    """One way. ``family``: 4 or 6. ``service``: what was translated, at which node and hook, or ""."""

    family: int
    verdict: str
    service: str
    frontend: str
    translated_at: str
    hook: str
    backend: str
    egress: HalfView | None
    ingress: HalfView | None
    refused: str


AnswerView = TypedDict(
    "AnswerView",
    {
        "from": str,
        "to": str,
        "allowed": bool | None,
        "verdict": str,
        "agree": bool,
        "courses": list[CourseView],
    },
)
"""The whole answer. ``allowed`` is of the first way's family. ``agree`` False: two judges differ."""


def silent(_: Half) -> tuple[Step, ...]:
    """The Tell of those who don't want to know."""
    return ()


def nowhere(_: RuleRef) -> str:
    """The Origin of those who don't know."""
    return ""


def verdict_view(judgement: Judgement | None, origin: Origin = nowhere, reason: str = "") -> VerdictView:
    """A judgement's view; None: unknown. ``reason``: as Half.reasons has it."""
    if judgement is None:
        return VerdictView(
            verdict=UNKNOWN,
            allowed=None,
            action=None,
            object=None,
            rule=None,
            why=UNKNOWN,
            reason=reason,
            at="",
        )
    shown = judgement.shadow if judgement.audited else judgement.enforced
    rule = shown.rule
    return VerdictView(
        verdict="audited" if judgement.audited else "forwarded" if judgement.allowed else "dropped",
        allowed=judgement.allowed,
        action=shown.action.value,
        object=str(rule.policy) if rule else None,
        rule=rule.number if rule and rule.number != NO_RULE else None,
        why="refused" if reason else _why(judgement, shown),
        reason=reason,
        at=origin(rule) if rule else "",
    )


def _why(judgement: Judgement, shown: Outcome) -> str:
    if judgement.exempt is not None:
        return _WHY[judgement.exempt]
    if shown.isolated:
        return "isolated"
    return "rule" if shown.rule else "default"


def half_view(half: Half, origin: Origin = nowhere, tell: Tell = silent) -> HalfView:
    """A half's view; each judge's verdict where several were asked."""
    several = half.answers if len(half.answers) > 1 else {}
    question = half.question
    return HalfView(
        **verdict_view(half.judgement, origin, half.reason),
        direction=half.direction.name.lower(),
        node=half.node,
        hook=_POD_HOOK[half.direction] if _subject(half).pod else "",
        source=party_text(question.source),
        destination=party_text(question.destination, question.protocol, question.port),
        by={name: verdict_view(one, origin, half.reasons[name]) for name, one in several.items()},
        steps=[step_text(step) for step in tell(half)],
    )


def _subject(half: Half) -> Party:
    return half.question.source if half.direction is Direction.EGRESS else half.question.destination


def course_view(course: Course, origin: Origin = nowhere, tell: Tell = silent) -> CourseView:
    """A way's view."""
    halves = [half_view(half, origin, tell) for half in course.halves]
    egress, ingress = halves or (None, None)
    chosen = course.chosen
    name, frontend, hook = "", "", ""
    if chosen is not None:
        name, hook = str(chosen.service), _service_hook(course)
        frontend = f"{endpoint_text(chosen.address, chosen.port)}/{protocol_name(chosen.protocol)}"
    return CourseView(
        family=4 if course.ipv4 else 6,
        verdict=course_verdict(course),
        service=name,
        frontend=frontend,
        translated_at=course.translated_at,
        hook=hook,
        backend=ingress["destination"] if ingress and chosen is not None else "",
        egress=egress,
        ingress=ingress,
        refused=course.refused,
    )


def _service_hook(course: Course) -> str:
    """Where a Service's address becomes a backend's: at the socket on the client's node, or at an uplink."""
    if not course.halves or course.halves[0].node != course.translated_at:
        return "xdp or tc of the uplink"
    return "cgroup/connect4, sendmsg4" if course.ipv4 else "cgroup/connect6, sendmsg6"


def course_verdict(course: Course) -> str:
    """What becomes of the flow that goes this way."""
    if course.refused:
        return REFUSED
    if course.audited:
        return "audited"
    return {True: "forwarded", False: "dropped", None: UNKNOWN}[course.allowed]


def answer_view(answer: Answer, origin: Origin = nowhere, tell: Tell = silent) -> AnswerView:
    """The whole answer."""
    return {
        "from": str(answer.source),
        "to": str(answer.destination),
        "allowed": answer.allowed,
        "verdict": course_verdict(answer.deciding),
        "agree": not answer.disagreements,
        "courses": [course_view(one, origin, tell) for one in answer.courses],
    }


def step_text(step: Step) -> str:
    """One line of how a verdict came about."""
    mode = ", monitored" if step.mode.value == "Monitor" else ""
    name = f" ({step.name})" if step.name else ""
    tier, rule = step.tier.name.capitalize(), step.rule
    if step.refused:
        return f"{tier}: {rule.policy}, refused, denies all{mode}: {step.match.value}"
    return f"{tier}: {rule.policy} rule {rule.number}{name}, {step.action.value}{mode}: {step.match.value}"


def party_text(party: Party, protocol: int | None = None, port: int = 0) -> str:
    """``pod:shop/web-0 (10.1.0.1:80/TCP)``."""
    if protocol is None:
        where = text(party.address)
    elif protocol_name(protocol).startswith("ICMP"):
        where = f"{text(party.address)} {protocol_name(protocol)} type {port >> 8} code {port & 255}"
    else:
        where = f"{endpoint_text(party.address, port)}/{protocol_name(protocol)}"
    if party.pod is not None:
        return f"pod:{party.pod.key.namespace}/{party.pod.key.name} ({where})"
    return f"{'node:' + party.node if node_of(party) else 'world'} ({where})"
