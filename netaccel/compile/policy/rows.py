# SPDX-License-Identifier: Apache-2.0
"""Verdicts by protocol and port for one class of peers: the rules that match it, resolved (design: Policy).

Ports are cut where any rule begins or ends. Rules paint what no rule before them has painted, once for what
is in force and once for the shadow; what has the same verdicts is joined and cut into prefixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from netaccel.compile.policy.rules import Form, Spans
from netaccel.compile.policy.selectors import Meant, bits
from netaccel.model.policy import Action, NamedPort, Tier
from netaccel.records import PolicyVerdict

PORTS = 1 << 16
WHOLE, PROTOCOL = 32, 48
"""Prefix lengths of a row's own entry, and of one protocol's."""

Row = tuple[tuple[tuple[int, int, int], PolicyVerdict], ...]
"""((prefix length, protocol, port), verdict), sorted: a row without its id. Equal rows share one."""


@dataclass(frozen=True, slots=True, eq=False)
class Ruled:
    """A rule of some subject. ``id``: the key of the map ``policy_rules``; ``peers`` None: all."""

    form: Form
    id: int
    peers: tuple[Meant, ...] | None


class Fallback(NamedTuple):
    """Ids of the rules that stand for isolation, in force and in the shadow; 0: not isolated."""

    enforced: int
    shadow: int


class Verdict(NamedTuple):
    """Half of a row's verdict. ``rule`` 0: allowed by default."""

    rule: int
    action: int
    isolated: int = 0


class Actions:
    """Numbers of enum policy_action (abi.h)."""

    def __init__(self, constants: Mapping[str, int]) -> None:
        self.allow = constants["POLICY_ALLOW"]
        self.drop = constants["POLICY_DROP"]
        self.of = {
            Action.ALLOW: self.allow,
            Action.DROP: self.drop,
            Action.REJECT: constants["POLICY_REJECT"],
        }


Named = tuple[tuple[str, int, int], ...]
"""(name, protocol, number) of the destination's named ports."""

_Span = tuple[int, int]
"""Cells, the second not included."""

_Stroke = tuple[Ruled, Action, Sequence[_Span]]
"""What a rule does to cells."""

_RANK = {Action.DROP: 0, Action.REJECT: 1, Action.ALLOW: 2}


def resolve(rules: Sequence[Ruled], fallback: Fallback, named: Named, actions: Actions) -> Row:
    """The row of a peer that these rules match, in the order of evaluation."""
    spans = [_with_named(one.form, named) if one.form.named else one.form.spans for one in rules]
    everywhere = [(one, [(0, 1)]) for one in rules if one.form.ports is None]
    (other,) = _verdicts(everywhere, 1, fallback, actions)
    entries = [((WHOLE, 0, 0), other)]
    for protocol in sorted({protocol for found in spans for protocol in found}):
        bounds, painted = _cells(protocol, rules, spans)
        verdicts = _verdicts(painted, len(bounds) - 1, fallback, actions)
        entries += _entries(protocol, bounds, verdicts, other)
    entries.sort()
    return tuple(entries)


def _with_named(form: Form, named: Named) -> Spans:
    """A rule's ports, those that the destination names too."""
    found = {protocol: list(spans) for protocol, spans in form.spans.items()}
    for port in form.ports or ():
        if isinstance(port, NamedPort):
            for name, protocol, number in named:
                if name == port.name and port.protocol in (None, protocol):
                    found.setdefault(protocol, []).append((number, number + 1))
    return found


def _cells(
    protocol: int, rules: Sequence[Ruled], spans: Sequence[Spans]
) -> tuple[list[int], list[tuple[Ruled, Sequence[_Span]]]]:
    """Where the ports of a protocol are cut, and the cells of each rule."""
    edges = {0, PORTS}
    for of_rule in spans:
        for span in of_rule.get(protocol, ()):
            edges.update(span)
    bounds = sorted(edges)
    at = {bound: cell for cell, bound in enumerate(bounds)}
    whole = [(0, len(bounds) - 1)]
    painted: list[tuple[Ruled, Sequence[_Span]]] = []
    for one, of_rule in zip(rules, spans, strict=True):
        if one.form.ports is None:
            painted.append((one, whole))
        elif protocol in of_rule:
            painted.append((one, [(at[first], at[end]) for first, end in of_rule[protocol]]))
    return bounds, painted


def _verdicts(
    painted: Sequence[tuple[Ruled, Sequence[_Span]]], cells: int, fallback: Fallback, actions: Actions
) -> list[PolicyVerdict]:
    strokes = [(one, read, spans) for one, spans in painted if (read := one.form.enforced)]
    enforced = shadow = _paint(strokes, cells, fallback.enforced, actions)
    if fallback.enforced != fallback.shadow or any(o.form.enforced is not o.form.shadow for o, _ in painted):
        strokes = [(one, read, spans) for one, spans in painted if (read := one.form.shadow)]
        shadow = _paint(strokes, cells, fallback.shadow, actions)
    return list(map(_both, enforced, shadow))


@lru_cache(maxsize=4096)
def _both(enforced: Verdict, shadow: Verdict) -> PolicyVerdict:
    return PolicyVerdict(
        enforced.rule, shadow.rule, enforced.action, shadow.action, enforced.isolated, shadow.isolated
    )


def _paint(
    strokes: Iterable[_Stroke],
    cells: int,
    isolation: int,
    actions: Actions,
) -> list[Verdict]:
    """By cell. The first rule of a tier that has one takes it; one that passes leaves it to the next tier."""
    verdicts = [Verdict(isolation, actions.drop, 1) if isolation else Verdict(0, actions.allow)] * cells
    undecided = (1 << cells) - 1  # bit n is cell n
    tier, free = None, 0
    for one, action, spans in sorted(strokes, key=_order):
        if one.form.tier is not tier:
            tier, free = one.form.tier, undecided
            if isolation and tier is Tier.BASELINE:
                break
        taken = free & _cells_of(spans)
        if taken:
            free ^= taken
            if action is not Action.PASS:
                undecided ^= taken
                verdict = Verdict(one.id, actions.of[action])
                for cell in bits(taken):
                    verdicts[cell] = verdict
    return verdicts


def _order(stroke: _Stroke) -> int:
    """Of tiers, and in the namespaced one of actions; otherwise rules stay in their order."""
    tier = stroke[0].form.tier
    return len(_RANK) * tier + (_RANK[stroke[1]] if tier is Tier.NAMESPACED else 0)


def _cells_of(spans: Sequence[_Span]) -> int:
    found = 0
    for begin, end in spans:
        found |= (1 << end) - (1 << begin)
    return found


def _entries(
    protocol: int, bounds: Sequence[int], verdicts: Sequence[PolicyVerdict], other: PolicyVerdict
) -> Iterator[tuple[tuple[int, int, int], PolicyVerdict]]:
    """A protocol's entries: the verdict that would need most prefixes is the protocol's own."""
    runs: list[tuple[int, int, PolicyVerdict]] = []
    for first, end, verdict in zip(bounds, bounds[1:], verdicts, strict=False):
        if runs and runs[-1][2] == verdict:
            runs[-1] = (runs[-1][0], end, verdict)
        else:
            runs.append((first, end, verdict))
    needed: dict[PolicyVerdict, int] = {}
    cut = [(verdict, prefixes(first, end)) for first, end, verdict in runs]
    for verdict, found in cut:
        needed[verdict] = needed.get(verdict, 0) + len(found)
    base = max(needed, key=lambda verdict: (needed[verdict], verdict == other))
    if base != other:
        yield (PROTOCOL, protocol, 0), base
    for verdict, found in cut:
        if verdict != base:
            for length, port in found:
                yield (PROTOCOL + length, protocol, port), verdict


@lru_cache(maxsize=4096)
def prefixes(first: int, end: int) -> tuple[tuple[int, int], ...]:
    """(length, first port) of the fewest prefixes of 16 bits that are ``first`` to ``end`` - 1."""
    found = []
    while first < end:
        size = first & -first or PORTS
        while size > end - first:
            size >>= 1
        found.append((17 - size.bit_length(), first))
        first += size
    return tuple(found)
