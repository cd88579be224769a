# SPDX-License-Identifier: Apache-2.0
"""Questions as lines of JSON, answers as lines in the same order.

A question: ``{"from": "pod:NS/NAME", "to": "pod:NS/NAME", "port": 80, "protocol": "TCP"}``. ``port`` may
stand in ``to``; ``protocol`` is TCP where it is left out; of ICMP ``type`` and ``code``, an echo request
where they are left out. An answer repeats the question and adds ``allowed`` (null: not known), ``verdict``,
``egress`` and ``ingress`` (view.VerdictView); ``error`` where it can't be asked, or two judges disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import msgspec

from netaccel.errors import DatapathError, QuestionError
from netaccel.explain.ends import End, parse_end, parse_port, parse_protocol
from netaccel.explain.view import REFUSED, Origin, VerdictView, course_verdict, nowhere, verdict_view
from netaccel.explain.walk import Answer, Half, How, Walker

_end = lru_cache(maxsize=1 << 16)(parse_end)


class Asked(msgspec.Struct, rename={"source": "from", "destination": "to", "kind": "type"}):
    """A line as it comes in."""

    source: str
    destination: str
    port: int | str | None = None
    protocol: int | str | None = None
    kind: int | None = None
    code: int | None = None


_decode = msgspec.json.Decoder(Asked).decode


def answers(walker: Walker, lines: Iterable[bytes], origin: Origin = nowhere) -> Iterator[dict[str, Any]]:
    """One answer a line; empty lines have none. Never raises for what a line says."""
    for line in lines:
        if line.strip():
            yield answer(walker, line, origin)


def answer(walker: Walker, line: bytes, origin: Origin = nowhere) -> dict[str, Any]:
    """Answer one line."""
    try:
        asked = _decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return {"error": f'{error}: give {{"from": "pod:NS/NAME", "to": "pod:NS/NAME", "port": 80}}'}
    said = {
        "from": asked.source,
        "to": asked.destination,
        "port": asked.port,
        "protocol": asked.protocol or "TCP",
    }
    try:
        found = walker.walk(_end(asked.source), _destination(asked), _how(asked))
    except (QuestionError, DatapathError) as error:
        return {**said, "error": str(error)}
    return {**said, **_answered(found, origin)}


def _destination(asked: Asked) -> End:
    end = _end(asked.destination)
    return end if asked.port is None else end._replace(port=parse_port(asked.port, asked.destination))


def _how(asked: Asked) -> How:
    protocol = None if asked.protocol is None else parse_protocol(asked.protocol)
    return How(protocol, icmp_port(asked.kind, asked.code), one_family=True)


def icmp_port(kind: int | None, code: int | None) -> int | None:
    """256 × type + code, None where no type is given. Raises QuestionError for what is no octet."""
    if kind is None:
        return None
    if not (0 <= kind <= 255 and 0 <= (code or 0) <= 255):
        raise QuestionError(f"ICMP type {kind}, code {code or 0}: give numbers from 0 to 255")
    return kind * 256 + (code or 0)


def _answered(found: Answer, origin: Origin) -> dict[str, Any]:
    course = found.deciding
    egress, ingress = (_half(half, origin) for half in course.halves) if course.halves else (None, None)
    told: dict[str, Any] = {
        "allowed": found.allowed,
        "verdict": course_verdict(course),
        "egress": egress,
        "ingress": ingress,
    }
    if course_verdict(course) == REFUSED:
        told["refused"] = course.refused
    if found.disagreements:
        half = found.disagreements[0]
        told["error"] = f"disagreement about {half.direction.name.lower()}: {_both(half)}"
        told["by"] = {
            name: verdict_view(one, origin, half.reasons[name]) for name, one in half.answers.items()
        }
    return told


def _half(half: Half, origin: Origin) -> VerdictView:
    return verdict_view(half.judgement, origin, half.reason)


def _both(half: Half) -> str:
    return "; ".join(f"{name} says {_say(verdict_view(one))}" for name, one in half.answers.items())


def _say(view: VerdictView) -> str:
    if view["object"] is None:
        return f"{view['verdict']} by {view['why']}"
    rule = "its isolation" if view["rule"] is None else f"rule {view['rule']}"
    return f"{view['verdict']} by {view['object']} {rule}"
