# SPDX-License-Identifier: Apache-2.0
"""``netaccel explain``: would a flow be allowed, and which rule says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from netaccel.commands.output import emit, examples, output_option
from netaccel.errors import QuestionError
from netaccel.explain.batch import answers, icmp_port
from netaccel.explain.ends import parse_end, parse_protocol
from netaccel.explain.manifests import Offline, read_world
from netaccel.explain.model import Model
from netaccel.explain.view import (
    CourseView,
    HalfView,
    VerdictView,
    answer_view,
    course_verdict,
    course_view,
    step_text,
)
from netaccel.explain.walk import Answer, Course, How, Walker

DENIED = 3
"""Exit status: the flow is not allowed."""
UNKNOWN = 4
"""Exit status: it can't be known here."""


@click.command(
    epilog=examples(
        "netaccel explain pod:shop/web-0 service:shop/db:5432 --manifests DIR",
        "netaccel explain world pod:shop/web-0:443 --manifests DIR --steps",
        "netaccel explain pod:shop/web-0 'ip:[2001:db8::1]:53/UDP' --manifests DIR -o json",
        "netaccel explain pod:shop/web-0 node:node-1 --protocol ICMP --manifests DIR",
        "netaccel explain --batch --manifests DIR < questions.jsonl > answers.jsonl",
    )
    + "\n\nExit status: 0 allowed, 1 failed, or model and kernel disagree, 2 usage, 3 denied, 4 not known"
    " here. With --batch 0: every line is answered, whatever the verdicts.",
)
@click.argument("source", metavar="SRC", required=False)
@click.argument("destination", metavar="DST[:PORT[/PROTO]]", required=False)
@click.option("--protocol", help="TCP, UDP, SCTP, ICMP, or a number.  [default: DST's, else TCP]")
@click.option("--icmp-type", metavar="TYPE[/CODE]", help="Of the first ICMP packet.  [default: echo request]")
@click.option(
    "--manifests",
    type=click.Path(path_type=Path),
    help="Ask about the cluster that these files describe; no agent and no root needed.",
)
@click.option("--batch", is_flag=True, help="Questions as JSON lines on standard input, answers likewise.")
@click.option("--steps", is_flag=True, help="Show every rule that could decide, and what became of it.")
@output_option
def explain(
    source: str | None,
    destination: str | None,
    protocol: str | None,
    icmp_type: str | None,
    manifests: Path | None,
    batch: bool,
    steps: bool,
    output: str,
) -> None:
    """Would SRC reach DST, and which rule of which policy says so.

    SRC and DST: pod:NS/NAME, service:NS/NAME, node:NAME, ip:ADDR (IPv6 in brackets), world.
    """
    if manifests is None:
        raise click.UsageError("give --manifests DIR")
    offline = read_world(manifests)
    _warn(offline)
    model = Model(offline.world)
    walker = Walker(model, {"model": model})
    if batch:
        if source or destination:
            raise click.UsageError("--batch takes its questions from standard input: leave SRC and DST out")
        _batch(walker, offline)
        return
    if not source or not destination:
        raise click.UsageError("give SRC and DST, as pod:shop/web-0 service:shop/db:5432")
    how = How(None if protocol is None else parse_protocol(protocol), _icmp(icmp_type))
    answer = walker.walk(parse_end(source), parse_end(destination), how)
    emit(
        output, answer_view(answer, offline.origin), lambda: _print(answer, offline, model if steps else None)
    )
    _leave(answer)


def _icmp(written: str | None) -> int | None:
    if written is None:
        return None
    kind, _, code = written.partition("/")
    if not kind.isdecimal() or not (code or "0").isdecimal():
        raise QuestionError(f"--icmp-type {written}: give TYPE or TYPE/CODE, as 8 or 3/4")
    return icmp_port(int(kind), int(code or 0))


def _warn(offline: Offline) -> None:
    for one in offline.refused:
        path = f": {one.path}" if one.path else ""
        click.echo(f"netaccel: {one.origin}: {one.key or 'an object'}{path}: {one.reason}", err=True)


def _leave(answer: Answer) -> None:
    if answer.disagreements:
        raise click.exceptions.Exit(1)
    if answer.allowed is None:
        raise click.exceptions.Exit(UNKNOWN)
    if not answer.allowed:
        raise click.exceptions.Exit(DENIED)


def _batch(walker: Walker, offline: Offline) -> None:
    failed = unknown = False
    for found in answers(walker, sys.stdin.buffer, offline.origin):
        failed |= "error" in found
        unknown |= found.get("allowed", True) is None
        sys.stdout.write(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n")
    sys.stdout.flush()
    if failed or unknown:
        raise click.exceptions.Exit(1 if failed else UNKNOWN)


# ------------------------------------------------------------------- for people


def _print(answer: Answer, offline: Offline, model: Model | None) -> None:
    click.secho(f"{answer.source} → {answer.destination}: {course_verdict(answer.deciding)}", bold=True)
    for number, course in enumerate(answer.courses):
        if number and not course.ipv4 and answer.courses[number - 1].ipv4:
            click.echo("\nThe other address family:")
        _print_course(course, offline, model)
    for half in answer.disagreements:
        click.secho(f"\nmodel and kernel disagree about {half.direction.name.lower()}", fg="red", err=True)


def _print_course(course: Course, offline: Offline, model: Model | None) -> None:
    view = course_view(course, offline.origin)
    if view["service"]:
        where = view["translated_at"] or "the node that it comes to"
        click.echo(
            f"\n  service {view['service']} at {view['frontend']}, translated at {where} ({view['hook']})"
        )
        if view["backend"]:
            click.echo(f"  backend {view['backend']}")
    elif view["ingress"]:
        click.echo(f"\n  to {view['ingress']['destination']}")
    if view["refused"]:
        click.echo(f"  refused: {view['refused']}")
    if view["egress"] and view["ingress"] and view["egress"]["source"] != view["ingress"]["source"]:
        click.echo(f"  comes to it as {view['ingress']['source']}")
    for half, (word, told) in zip(course.halves, _halves(view), strict=True):
        click.echo(f"  {word:7} {_half_text(told)}")
        for name, one in told["by"].items():
            click.echo(f"          {name}: {_verdict_text(one)}")
        for step in model.steps(half.direction, half.question) if model else ():
            click.echo(f"          {step_text(step)}")


def _halves(view: CourseView) -> Iterator[tuple[str, HalfView]]:
    if view["egress"] and view["ingress"]:
        yield "egress", view["egress"]
        yield "ingress", view["ingress"]


def _half_text(view: HalfView) -> str:
    node = f" at {view['node']}" if view["node"] else ""
    hook = f", {view['hook']}" if view["hook"] else ""
    return f"{_verdict_text(view)}{node}{hook}"


def _verdict_text(view: VerdictView) -> str:
    if view["object"] is None:
        return f"{view['verdict']}: {_NO_OBJECT.get(view['why'], view['why'])}"
    if view["rule"] is None:
        what = f"{view['object']} isolates the pod, and no rule allows it"
    else:
        what = f"{view['object']} rule {view['rule']} ({view['action']})"
    at = f" [{view['at']}]" if view["at"] else ""
    return f"{view['verdict']}: {what}{at}"


_NO_OBJECT = {
    "default": "no policy decides",
    "no pod": "policy is for pods",
    "self": "a pod always reaches itself",
    "own node": "a node always reaches its pods",
    "neighbours": "neighbour discovery is outside policy",
    "unknown": "not known on this node",
}
