# SPDX-License-Identifier: Apache-2.0
"""Which records are wanted: from the words of a query to a function. Pure.

Values of one filter are alternatives, different filters hold together. ``pod``, ``namespace``, ``label``,
``node``, ``ip`` and ``port`` hold where either end does; ``from`` and ``to`` name one end. Names may have
``*`` and ``?``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fnmatch import fnmatchcase

from netaccel.errors import ConfigError
from netaccel.model.address import Cidr, parse_address, parse_cidr
from netaccel.observe.flows.decode import PROTOCOLS
from netaccel.observe.flows.record import End, FlowRecord, RuleName
from netaccel.observe.flows.selector import parse_selector

Wanted = Callable[[FlowRecord], bool]
Holds = Callable[[End], bool]

NAMES = (
    "pod", "namespace", "label", "service", "node", "ip", "port", "from", "to", "protocol", "reason", "rule",
    "verdict", "path", "direction", "type",
)  # fmt: skip
"""Filters; each may be given several times."""
Known = Mapping[str, Collection[str]]
"""The words that ``verdict``, ``path``, ``direction`` and ``type`` may have: what programs tell."""
_AGE = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNITS = {"ms": 1e-3, "s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for. ``filters``: their texts by name (:data:`NAMES`). ``since``: nanoseconds, 0: no
    matter.
    """

    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    since: int = 0

    def wanted(self, known: Known) -> Wanted:
        """The function that tells. ConfigError names the filter and the remedy."""
        tests = [
            _one_of([_parse(name, text, known) for text in texts])
            for name, texts in self.filters.items()
            if texts
        ]
        return lambda record: all(test(record) for test in tests)


def parse_since(given: str, now: float) -> int:
    """``5m`` before ``now`` (seconds since the epoch), or a date of RFC 3339; nanoseconds. ConfigError."""
    if match := _AGE.fullmatch(given.strip()):
        return int((now - float(match[1]) * _UNITS[match[2]]) * 1e9)
    try:
        date = datetime.fromisoformat(given.strip())
    except ValueError as error:
        raise ConfigError(
            f"since {given!r}: give an age as 30s, 5m, 2h, 1d or a date as 2026-11-25T19:12:03Z"
        ) from error
    return int((date if date.tzinfo else date.astimezone()).timestamp() * 1e9)


def _parse(name: str, given: str, known: Known) -> Wanted:
    if name in known:
        return _choice(name, given, known[name])
    if name not in _PARSERS:
        raise ConfigError(f"{name}: no such filter; known are {', '.join(NAMES)}")
    return _PARSERS[name](given)


def _one_of(tests: Sequence[Wanted]) -> Wanted:
    if len(tests) == 1:
        return tests[0]
    return lambda record: any(test(record) for test in tests)


# ------------------------------------------------------------- one parser each


def _refuse(name: str, given: str, remedy: str) -> ConfigError:
    return ConfigError(f"{name} {given!r}: {remedy}")


def _either(holds: Holds) -> Wanted:
    return lambda record: holds(record.source) or holds(record.destination)


def _pod(given: str) -> Holds:
    """``[namespace/]name``; without a namespace: default."""
    namespace, _, name = given.rpartition("/")
    if not name or "/" in namespace:
        raise _refuse("pod", given, "give NAMESPACE/NAME, or NAME in the namespace default")
    space = namespace or "default"
    return lambda end: end.kind == "pod" and fnmatchcase(end.name, name) and fnmatchcase(end.namespace, space)


def _namespace(given: str) -> Holds:
    if not given or "/" in given:
        raise _refuse("namespace", given, "give a namespace's name")
    return lambda end: end.kind == "pod" and fnmatchcase(end.namespace, given)


def _label(given: str) -> Holds:
    try:
        selects = parse_selector(given)
    except ValueError as error:
        raise ConfigError(f"label {given!r}: {error}") from error
    return lambda end: end.kind == "pod" and selects(end.labels)


def _node(given: str) -> Holds:
    if not given:
        raise _refuse("node", given, "give a node's name")
    return lambda end: fnmatchcase(end.name if end.kind == "node" else end.node, given)


def _ip(given: str) -> Holds:
    try:
        cidr = parse_cidr(given) if "/" in given else Cidr(parse_address(given), 128)
    except ValueError as error:
        raise _refuse("ip", given, "give an address or CIDR, as 10.1.2.3 or fd00::/64") from error
    shift = 128 - cidr.length
    prefix = int.from_bytes(cidr.addr) >> shift
    return lambda end: int.from_bytes(parse_address(end.address)) >> shift == prefix


def _is(kind: str) -> Callable[[str], Holds]:
    return lambda _given: lambda end: end.kind == kind


_WHO: Mapping[str, Callable[[str], Holds]] = {
    "pod": _pod,
    "namespace": _namespace,
    "node": _node,
    "ip": _ip,
    "label": _label,
    "world": _is("world"),
}


def _who(name: str, given: str) -> Holds:
    """``pod:shop/web-0``, ``namespace:shop``, ``service:shop/db``, ``node:n1``, ``ip:10.0.0.0/8``,
    ``world``.
    """
    kind, colon, rest = given.partition(":")
    if kind not in _WHO or (kind == "world") == bool(colon):
        forms = "pod:NAMESPACE/NAME, namespace:NAME, label:SELECTOR, node:NAME, ip:ADDRESS[/BITS] or world"
        raise _refuse(name, given, f"give {forms}")
    return _WHO[kind](rest)


def _from(given: str) -> Wanted:
    holds = _who("from", given)
    return lambda record: holds(record.source)


def _to(given: str) -> Wanted:
    if given.startswith("service:"):
        return _service(given.removeprefix("service:"))
    holds = _who("to", given)
    return lambda record: holds(record.destination)


def _service(given: str) -> Wanted:
    """Named by the client, or with the destination (of replies' side: nobody) among its endpoints."""
    namespace, _, name = given.rpartition("/")
    if not name or "/" in namespace:
        raise _refuse("service", given, "give NAMESPACE/NAME, or NAME in the namespace default")
    pattern = f"{namespace or 'default'}/{name}"

    def test(record: FlowRecord) -> bool:
        names = (record.service, *record.destination.endpoint_of)
        return any(fnmatchcase(one, pattern) for one in names if one)

    return test


def _port(given: str) -> Wanted:
    match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", given)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
    if not first <= last <= 65535:
        raise _refuse("port", given, "give a number or a range, as 443 or 8000-8100")
    return lambda record: first <= record.destination_port <= last or first <= record.source_port <= last


def _protocol(given: str) -> Wanted:
    by_text = {name.lower(): name for name in PROTOCOLS.values()} | {
        str(n): name for n, name in PROTOCOLS.items()
    }
    wanted = by_text.get(given.lower()) or (str(int(given)) if given.isdecimal() and int(given) < 256 else "")
    if not wanted:
        raise _refuse("protocol", given, f"give {', '.join(PROTOCOLS.values())} or a number")
    return lambda record: record.protocol == wanted


def _choice(name: str, given: str, known: Collection[str]) -> Wanted:
    """One of the words that this attribute may have."""
    wanted = given.lower().replace("-", "_")
    if wanted not in known:
        raise _refuse(name, given, f"give {', '.join(known)}")
    return lambda record: getattr(record, name) == wanted


def _reason(given: str) -> Wanted:
    """A new reason needs no change here, so that any name is taken."""
    wanted = given.lower().replace("-", "_")
    if not re.fullmatch(r"[a-z0-9_*?]+", wanted):
        raise _refuse("reason", given, "give a reason's name, as policy_denied or policy_*")
    return lambda record: fnmatchcase(record.reason, wanted)


def _rule(given: str) -> Wanted:
    """Words that all hold: kind, ``namespace/name`` or name, ``ingress[0]``, the rule's own name."""
    words = given.split()
    if not words:
        raise _refuse("rule", given, "give a policy's NAMESPACE/NAME, or its kind, or both and ingress[0]")

    def holds(rule: RuleName | None) -> bool:
        if rule is None:
            return False
        known = (rule.kind, rule.policy, rule.name, rule.place, rule.direction, rule.rule)
        return all(any(_like(one, word) for one in known) for word in words)

    return lambda record: holds(record.rule) or holds(record.shadow_rule)


def _like(text: str, pattern: str) -> bool:
    """As fnmatch, but ``[0]`` is itself."""
    return fnmatchcase(text.lower(), pattern.lower().replace("[", "[[]"))


_PARSERS: Mapping[str, Callable[[str], Wanted]] = {
    "pod": lambda given: _either(_pod(given)),
    "namespace": lambda given: _either(_namespace(given)),
    "label": lambda given: _either(_label(given)),
    "node": lambda given: _either(_node(given)),
    "ip": lambda given: _either(_ip(given)),
    "service": _service,
    "port": _port,
    "from": _from,
    "to": _to,
    "protocol": _protocol,
    "reason": _reason,
    "rule": _rule,
}
