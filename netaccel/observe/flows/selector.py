# SPDX-License-Identifier: Apache-2.0
"""Label selectors as kubectl takes them: ``app=web,tier!=db,env in (a,b),!old``. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Selects = Callable[[Mapping[str, str]], bool]

_KEY = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]*[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?"
_EQUAL = re.compile(rf"({_KEY})\s*(!=|==?)\s*({_VALUE})")
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s*\(([^()]*)\)")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_COMMA = re.compile(r",(?![^(]*\))")  # not those within brackets


def parse_selector(text: str) -> Selects:
    """All terms hold. ``!=`` and ``notin`` hold too where the label is absent. ValueError names the term."""
    terms = [_term(term.strip()) for term in _COMMA.split(text)]
    return lambda labels: all(term(labels) for term in terms)


def _term(text: str) -> Selects:
    if match := _EQUAL.fullmatch(text):
        key, operator, value = match.groups()
        return _within(key, frozenset((value,)), operator != "!=")
    if match := _SET.fullmatch(text):
        key, operator, values = match.groups()
        return _within(key, frozenset(v.strip() for v in values.split(",")), operator == "in")
    if match := _EXISTS.fullmatch(text):
        absent, key = match.groups()
        return lambda labels: (key in labels) != bool(absent)
    raise ValueError(f"{text!r} is no term: give KEY=VALUE, KEY!=VALUE, KEY in (A,B), KEY or !KEY")


def _within(key: str, values: frozenset[str], wanted: bool) -> Selects:
    return lambda labels: (labels.get(key) in values) == wanted
