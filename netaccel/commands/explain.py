# SPDX-License-Identifier: Apache-2.0
"""``netaccel explain``: would a flow be allowed, and which rule says so."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from netaccel.commands.asking import agent_at, world_of
from netaccel.commands.output import bpffs_option, emit, examples, http_option, output_option
from netaccel.commands.pinned import require_root
from netaccel.datapath.instance import Instance
from netaccel.errors import QuestionError
from netaccel.explain.batch import answers, icmp_port
from netaccel.explain.ends import parse_end, parse_protocol
from netaccel.explain.imagine import imagine
from netaccel.explain.manifests import read_world
from netaccel.explain.model import Judge, Model
from netaccel.explain.view import (
    AnswerView,
    CourseView,
    HalfView,
    Origin,
    VerdictView,
    answer_view,
    nowhere,
)
from netaccel.explain.walk import Half, How, Walker
from netaccel.explain.workloads import workload_pods
from netaccel.model.snapshot import World
from netaccel.oracle import Step

DENIED = 3
"""Exit status: the flow is not allowed."""
UNKNOWN = 4
"""Exit status: it can't be known here."""


@click.command(
    epilog=examples(
        "netaccel explain pod:shop/web-0 service:shop/db:5432",
        "netaccel explain world pod:shop/web-0:443 --manifests DIR --steps",
        "netaccel explain pod:shop/web-0 'ip:[2001:db8::1]:53/UDP' --manifests DIR -o json",
        "netaccel explain pod:shop/web-0 node:node-1 --protocol ICMP",
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
    help="Ask about the cluster that these files describe, instead of this node and its agent's world.",
)
@click.option(
    "--by",
    type=click.Choice(["model", "kernel", "both"]),
    help="Who is asked: an evaluation of the policies' words, or the programs, run on a packet (needs root)."
    " [default: both as root on a node, else model]",
)
@click.option("--batch", is_flag=True, help="Questions as JSON lines on standard input, answers likewise.")
@click.option("--steps", is_flag=True, help="Show every rule that could decide, and what became of it.")
@http_option
@bpffs_option
@output_option
def explain(
    source: str | None,
    destination: str | None,
    protocol: str | None,
    icmp_type: str | None,
    manifests: Path | None,
    by: str | None,
    batch: bool,
    steps: bool,
    http: str,
    bpffs: str,
    output: str,
) -> None:
    """Would SRC reach DST, and which rule of which policy says so.

    SRC and DST: pod:NS/NAME, service:NS/NAME, node:NAME, ip:ADDR (IPv6 in brackets), world.

    On a node the agent tells what there is, and the kernel is asked over its pinned maps; about other
    nodes' pods their agents are asked, where they can be reached. With --manifests no agent is needed, and no
    root for --by model.
    """
    if batch and (source or destination):
        raise click.UsageError("--batch takes its questions from standard input: leave SRC and DST out")
    if not batch and not (source and destination):
        raise click.UsageError("give SRC and DST, as pod:shop/web-0 service:shop/db:5432")
    how = How(None if protocol is None else parse_protocol(protocol), _icmp(icmp_type))
    ground = _Ground.of_files(manifests) if manifests else _Ground.of_agent(http, bpffs)
    model = Model(ground.world)
    with ground.judges(by, model) as judges:
        walker = Walker(model, judges)
        if batch:
            _batch(walker, ground)
            return
        if by is None and ground.maps and "kernel" not in judges:
            click.echo("netaccel: the kernel is not asked: that needs root: run it with sudo", err=True)
        answer = walker.walk(parse_end(source or ""), parse_end(destination or ""), how)

    def tell(half: Half) -> tuple[Step, ...]:
        return model.steps(half.direction, half.question) if steps else ()

    view = answer_view(answer, ground.origin, tell)
    emit(output, view, lambda: _print(view))
    _leave(view, ground)


@dataclass(frozen=True, slots=True)
class _Ground:
    """What is asked about. ``maps``: the folder of this node's pinned maps; None: files, no node.

    ``port``: where agents listen. ``broken``: files hold what can't be used, so that answers say what holds
    while that is so, and nobody shall take them for the files' own.
    """

    world: World
    origin: Origin
    maps: Path | None = None
    port: int = 0
    broken: bool = False

    @classmethod
    def of_files(cls, folder: Path) -> _Ground:
        """What manifests describe."""
        offline = read_world(folder)
        for one in offline.refused:
            path = f": {one.path}" if one.path else ""
            click.echo(f"netaccel: {one.origin}: {one.key or 'an object'}{path}: {one.reason}", err=True)
        for line in imagine(offline.world, workload_pods(folder)):
            click.echo(f"netaccel: {line}", err=True)
        return cls(offline.world, offline.origin, broken=bool(offline.refused))

    @classmethod
    def of_agent(cls, http: str, bpffs: str) -> _Ground:
        """What this node's agent knows."""
        listen = agent_at(http)
        world = world_of(listen)
        if not world.synced:
            click.echo("netaccel: the agent does not know the whole cluster yet", err=True)
        return cls(world, nowhere, Instance(Path(bpffs)).maps, listen.port)

    @contextmanager
    def judges(self, by: str | None, model: Model) -> Iterator[Mapping[str, Judge]]:
        """Who is asked; the model's word counts where both are."""
        by = by or ("both" if self.maps and os.geteuid() == 0 else "model")
        if by == "model":
            yield {"model": model}
            return
        require_root()
        with self._kernel() as kernel:
            yield {"kernel": kernel} if by == "kernel" else {"model": model, "kernel": kernel}

    @contextmanager
    def _kernel(self) -> Iterator[Judge]:
        from netaccel.explain.far import Everywhere
        from netaccel.explain.kernel import Kernel
        from netaccel.explain.live import PinnedKernel

        if self.maps is None:
            with Kernel(self.world) as kernel:
                yield kernel
            return
        with PinnedKernel(self.maps, self.world.node_name) as here:
            yield Everywhere(here, self.world, self.port)


def _icmp(written: str | None) -> int | None:
    if written is None:
        return None
    kind, _, code = written.partition("/")
    if not kind.isdecimal() or not (code or "0").isdecimal():
        raise QuestionError(f"--icmp-type {written}: give TYPE or TYPE/CODE, as 8 or 3/4")
    return icmp_port(int(kind), int(code or 0))


def _leave(view: AnswerView, ground: _Ground) -> None:
    if not view["agree"] or ground.broken:
        raise click.exceptions.Exit(1)
    if view["allowed"] is None:
        raise click.exceptions.Exit(UNKNOWN)
    if not view["allowed"]:
        raise click.exceptions.Exit(DENIED)


def _batch(walker: Walker, ground: _Ground) -> None:
    failed, unknown = ground.broken, False
    for found in answers(walker, sys.stdin.buffer, ground.origin):
        failed |= "error" in found
        unknown |= found.get("allowed", True) is None
        sys.stdout.write(json.dumps(found, ensure_ascii=False, separators=(",", ":")) + "\n")
        sys.stdout.flush()  # who asks may wait for the answer before the next question
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
            said = {name: _verdict_text(one) for name, one in half["by"].items()}
            if len(set(said.values())) == 1:
                click.echo(f"          so say {' and '.join(said)}")
            else:
                for name, text in said.items():
                    click.echo(f"          {name}: {text}")
            for step in half["steps"]:
                click.echo(f"          {step}")


def _half_text(view: HalfView) -> str:
    node = f" at {view['node']}" if view["node"] else ""
    hook = f", {view['hook']}" if view["hook"] else ""
    return f"{_verdict_text(view)}{node}{hook}"


def _verdict_text(view: VerdictView) -> str:
    if view["object"] is None:
        return f"{view['verdict']}: {view['reason'] or _NO_OBJECT.get(view['why'], view['why'])}"
    if view["why"] == "refused":
        what = f"{view['object']} was refused, so it denies what it selects ({view['reason']})"
    elif view["rule"] is None:
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
