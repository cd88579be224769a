# SPDX-License-Identifier: Apache-2.0
"""Label selectors (metav1.LabelSelector), checked as the API server does (ValidateLabelSelector)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from netaccel.errors import ObjectError
from netaccel.model.policy import Operator, Requirement, Selector
from netaccel.sources.policies.forms import Form, shown

_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SUBDOMAIN_MAX = 253
_WITH_VALUES = frozenset((Operator.IN, Operator.NOT_IN))


class Expression(Form):
    """matchExpressions[]."""

    key: str | None = None
    operator: str | None = None
    values: list[str] | None = None


class LabelSelector(Form):
    """An empty one selects everything; an absent one means what the field that holds it says."""

    match_labels: dict[str, str | None] | None = None
    match_expressions: list[Expression] | None = None


class BoundedExpression(Expression):
    """matchExpressions[] of this project's own kinds."""

    values: Annotated[list[str], Field(max_length=100)] | None = None


class BoundedSelector(LabelSelector):
    """A selector of this project's own kinds: CEL's costs want limits."""

    match_labels: Annotated[dict[str, str | None], Field(max_length=20)] | None = None
    match_expressions: Annotated[list[BoundedExpression], Field(max_length=20)] | None = None  # type: ignore[assignment]


def selector(form: LabelSelector, path: str) -> Selector:
    """The requirements: matchLabels by key, then matchExpressions as given. Raises ObjectError."""
    found: list[Requirement] = []
    for key, value in sorted((form.match_labels or {}).items()):
        where = f"{path}.matchLabels[{key}]"
        found.append(Requirement(_key(key, where), Operator.IN, (_value(value or "", where),)))
    for index, expression in enumerate(form.match_expressions or ()):
        found.append(_requirement(expression, f"{path}.matchExpressions[{index}]"))
    return tuple(found)


def _requirement(form: Expression, path: str) -> Requirement:
    key = _key(form.key or "", f"{path}.key")
    try:
        operator = Operator(form.operator)
    except ValueError:
        names = ", ".join(one.value for one in Operator)
        given = f"{shown(form.operator)} is no operator" if form.operator else "is missing"
        raise ObjectError(f"{path}.operator", f"{given}: give one of {names}") from None
    values = form.values or []
    if operator in _WITH_VALUES and not values:
        raise ObjectError(f"{path}.values", f"is empty, and {operator.value} needs some: give at least one")
    if operator not in _WITH_VALUES and values:
        raise ObjectError(f"{path}.values", f"is given, and {operator.value} takes none: remove it")
    checked = (_value(value, f"{path}.values[{index}]") for index, value in enumerate(values))
    return Requirement(key, operator, tuple(dict.fromkeys(checked)))


def _key(text: str, path: str) -> str:
    """A label's key: [subdomain/]name."""
    if not text:
        raise ObjectError(path, "is missing: give a label's key")
    prefix, slash, name = text.rpartition("/")
    prefixed = len(prefix) <= _SUBDOMAIN_MAX and _SUBDOMAIN.fullmatch(prefix)
    if (slash and not prefixed) or not _NAME.fullmatch(name):
        raise ObjectError(path, f"{shown(text)} is no label's key: give one such as app or example.com/app")
    return text


def _value(text: str, path: str) -> str:
    """A label's value."""
    if text and not _NAME.fullmatch(text):
        raise ObjectError(
            path, f"{shown(text)} is no label's value: use at most 63 of letters, digits, -, _ and ."
        )
    return text
