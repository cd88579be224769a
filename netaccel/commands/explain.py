# SPDX-License-Identifier: Apache-2.0
"""``netaccel explain``: would a flow be allowed, and which rule says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from netaccel.commands.output import emit, examples, output_option
from netaccel.errors import QuestionError
from netaccel.explain.batch import answers, icmp_port
from netaccel.explain.ends import parse_end, parse_protocol
from netaccel.explain.manifests import Offline, read_world
from netaccel.explain.model import Judge, Model
from netaccel.explain.view import AnswerView, CourseView, HalfView, VerdictView, answer_view
from netaccel.explain.walk import Half, How, Walker
from netaccel.oracle import Step

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
@click.option(
    "--by",
    type=click.Choice(["model", "kernel", "both"]),
    default="model",
    show_default=True,
    help="Who is asked: an evaluation of the policies' words, or the programs, run on a packet (needs root).",
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
    by: str,
    batch: bool,
    steps: bool,
    output: str,
) -> None:
    """Would SRC reach DST, and which rule of which policy says so.

    SRC and DST: pod:NS/NAME, service:NS/NAME, node:NAME, ip:ADDR (IPv6 in brackets), world.
    """
    if manifests is None:
        raise click.UsageError("give --manifests DIR")
    if batch and (source or destination):
        raise click.UsageError("--batch takes its questions from standard input: leave SRC and DST out")
    if not batch and not (source and destination):
        raise click.UsageError("give SRC and DST, as pod:shop/web-0 service:shop/db:5432")
    how = How(None if protocol is None else parse_protocol(protocol), _icmp(icmp_type))
    offline = read_world(manifests)
    _warn(offline)
    model = Model(offline.world)
    with _judges(by, model) as judges:
        walker = Walker(model, judges)
        if batch:
            _batch(walker, offline)
            return
        answer = walker.walk(parse_end(source or ""), parse_end(destination or ""), how)

    def tell(half: Half) -> tuple[Step, ...]:
        return model.steps(half.direction, half.question) if steps else ()

    view = answer_view(answer, offline.origin, tell)
    emit(output, view, lambda: _print(view))
    _leave(view)


@contextmanager
def _judges(by: str, model: Model) -> Iterator[Mapping[str, Judge]]:
    """Who is asked; the model's word counts where both are."""
    if by == "model":
        yield {"model": model}
        return
    from netaccel.explain.kernel import Kernel

    with Kernel(model.world) as kernel:
        yield {"kernel": kernel} if by == "kernel" else {"model": model, "kernel": kernel}


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


def _leave(view: AnswerView) -> None:
    if not view["agree"]:
        raise click.exceptions.Exit(1)
    if view["allowed"] is None:
        raise click.exceptions.Exit(UNKNOWN)
    if not view["allowed"]:
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


def _print(view: AnswerView) -> None:
    click.secho(f"{view['from']} → {view['to']}: {view['verdict']}", bold=True)
    family = view["courses"][0]["family"]
    for course in view["courses"]:
        if course["family"] != family:
            family = course["family"]
            click.echo("\nThe other address family:")
        _print_course(course)
    if not view["agree"]:
        click.secho("\nnetaccel: model and kernel disagree: please report it", fg="red", err=True)


def _print_course(course: CourseView) -> None:
    egress, ingress = course["egress"], course["ingress"]
    if course["service"]:
        at, where = course["frontend"], course["translated_at"] or "the node that it comes to"
        click.echo(f"\n  service {course['service']} at {at}, translated at {where} ({course['hook']})")
        if course["backend"]:
            click.echo(f"  backend {course['backend']}")
    elif ingress:
        click.echo(f"\n  to {ingress['destination']}")
    if course["refused"]:
        click.echo(f"  refused: {course['refused']}")
    if egress and ingress and egress["source"] != ingress["source"]:
        click.echo(f"  comes to it as {ingress['source']}")
    for half in (egress, ingress):
        if half:
            click.echo(f"  {half['direction']:7} {_half_text(half)}")
            for name, one in half["by"].items():
                click.echo(f"          {name}: {_verdict_text(one)}")
            for step in half["steps"]:
                click.echo(f"          {step}")


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
