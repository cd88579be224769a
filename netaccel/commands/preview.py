# SPDX-License-Identifier: Apache-2.0
"""``netaccel policy preview``: what a file of policies would have made of recorded traffic."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from netaccel.commands.asking import agent_at, answer, world_of
from netaccel.commands.output import emit, examples, http_option, output_option, print_table
from netaccel.config import HostPort
from netaccel.errors import ConfigError, DatapathError
from netaccel.explain import manifests as offline
from netaccel.explain.preview import Change, Changes, Preview, blind, stamp
from netaccel.explain.preview import preview as judge_edges
from netaccel.model.policy import ICMP, ICMPV6, Direction, Policy, RuleRef
from netaccel.observe.edges.edge import Edge, EdgeKey, Window, edge_object, read_edge, rule_object
from netaccel.observe.edges.reader import Reader
from netaccel.observe.flows.decode import PROTOCOLS
from netaccel.observe.flows.filters import parse_since
from netaccel.oracle.findings import place
from netaccel.sources.documents import read_file

BREAKS = 3
"""Exit status: something that was carried would not be any more."""
_TOLD = 5000  # edges between two signs of progress
_SHOWN = 50  # edges in the table


@click.command(
    epilog=examples(
        "netaccel policy preview -f stricter.yaml",
        "netaccel policy preview -f monitor.yaml --enforced --since 7d",
        "netaccel policy preview -f old.yaml --delete --since 2026-11-25T12:00:00Z -o json",
        "netaccel policy preview -f new.yaml --manifests DIR --edges node-1.db",
    )
    + "\n\nExit status: 0 nothing that was carried would be denied, 1 failed, 2 usage, 3 something would be.",
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, allow_dash=True),
    help="Policies to add or change; -: standard input. More than one may be given.",
)
@click.option("--delete", is_flag=True, help="Remove the file's policies instead.")
@click.option("--enforced", is_flag=True, help="Read the file's policies in monitor mode as enforced.")
@click.option(
    "--since", default="24h", show_default=True, metavar="AGE|DATE", help="30s, 5m, 2h, 1d, or a date."
)
@click.option(
    "--all", "show_all", is_flag=True, help=f"Show every edge in the table, not the newest {_SHOWN}."
)
@click.option(
    "--manifests",
    type=click.Path(path_type=Path),
    help="The cluster is what these files describe, instead of what the agent knows.",
)
@click.option(
    "--edges", type=click.Path(path_type=Path), help="Recorded edges from this file, instead of the agent's."
)
@http_option
@output_option
def preview(
    files: tuple[Path, ...],
    delete: bool,
    enforced: bool,
    since: str,
    show_all: bool,
    manifests: Path | None,
    edges: Path | None,
    http: str,
    output: str,
) -> None:
    """Say what these policies would have made of what really happened on this node.

    Recorded edges are judged with the policies that are in force now, and with the files' policies added,
    changed or (with --delete) removed. Edges whose verdict differs are listed, newest first. Each node
    records the traffic of its own pods.
    """
    put = [one for file in files for one in read_policies(file)]
    changes = Changes(removed=frozenset(one.key for one in put)) if delete else Changes(tuple(put))
    if enforced:
        changes = changes.enforced()
    begin = parse_since(since, time.time()) / 1e9
    listen = agent_at(http)
    world = offline.read_world(manifests).world if manifests else world_of(listen)
    with recorded(edges, listen, begin) as record:
        found = judge_edges(world, changes, _shown_progress(record.edges))
    unseen = [*blind(record.window, begin), *found.unseen]
    if not world.synced and manifests is None:
        unseen.append("the agent does not know the whole cluster yet")
    result = Result(found, record.window, begin, unseen, changes)
    emit(output, result.object(), lambda: _print(result, None if show_all else _SHOWN))
    if found.breaking():
        raise click.exceptions.Exit(BREAKS)


@dataclass(frozen=True, slots=True)
class Result:
    """What is printed."""

    preview: Preview
    window: Window
    since: float
    unseen: Sequence[str]
    changes: Changes

    def object(self) -> dict[str, Any]:
        """As JSON. Times: seconds since the epoch."""
        return {
            "policies": sorted(map(str, self.changes.removed | {one.key for one in self.changes.put})),
            "delete": bool(self.changes.removed),
            "window": {"since": max(self.since, self.window.since), "until": self.window.until},
            "unseen": list(self.unseen),
            "edges": self.preview.edges,
            "touched": self.preview.touched,
            "breaking": len(self.preview.breaking()),
            "changes": [_change_object(change) for change in self.preview.changes],
        }


# ------------------------------------------------------------------ what is read


def read_policies(file: Path) -> list[Policy]:
    """The policies of one file. ConfigError for one that can't be used, and where there is none."""
    name = "standard input" if str(file) == "-" else str(file)
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror or error}: give a file that can be read") from error
    found = read_file(content, name)
    for fault in found.faults:
        raise ConfigError(f"{fault.place}: {fault.path + ': ' if fault.path else ''}{fault.reason}")
    policies = []
    for claim in found.claims:
        if claim.object is None:
            where = f"{claim.place}: {claim.key}"
            raise ConfigError(f"{where}: {claim.path + ': ' if claim.path else ''}{claim.reason}")
        if isinstance(claim.object, Policy):
            policies.append(claim.object)
        else:
            click.echo(f"{claim.place}: {claim.key} is no policy: it is left out", err=True)
    if not policies:
        raise ConfigError(f"{name}: holds no policy: give NetworkPolicy, TrafficPolicy and the like")
    return policies


@dataclass(frozen=True, slots=True)
class Record:
    """Recorded edges as they come, and what they can tell of."""

    window: Window
    edges: Iterable[Edge]


@contextmanager
def recorded(file: Path | None, listen: HostPort, since: float) -> Iterator[Record]:
    """Edges of a file, or of the agent."""
    with ExitStack() as stack:
        if file is not None:
            reader = stack.enter_context(closing(Reader(file)))
            yield Record(reader.window(), reader.edges(since))
            return
        lines = stack.enter_context(answer(listen, "/api/v1/edges", (("since", str(since)),)))
        try:
            window = json.loads(lines.readline())["window"]
            window["gaps"] = tuple(map(tuple, window["gaps"]))
            yield Record(Window(**window), (read_edge(json.loads(line)) for line in lines))
        except (ValueError, KeyError, TypeError) as error:
            raise DatapathError(f"http://{listen}/api/v1/edges: no recorded edges: {error}") from error


def _shown_progress(edges: Iterable[Edge]) -> Iterator[Edge]:
    """Say how far it is, where somebody looks on."""
    looked_on = sys.stderr.isatty()
    for number, edge in enumerate(edges, 1):
        yield edge
        if looked_on and number % _TOLD == 0:
            click.echo(f"\r{number} edges judged", nl=False, err=True)
    if looked_on:
        click.echo("\r\033[K", nl=False, err=True)


# ---------------------------------------------------------------------- printing


def _change_object(change: Change) -> dict[str, Any]:
    return {
        **edge_object(change.edge),
        "now": {"verdict": change.now.value, "rule": rule_object(change.now_rule)},
        "then": {"verdict": change.then.value, "rule": rule_object(change.then_rule)},
        "breaks": change.breaks,
        "notes": list(change.notes),
    }


def _print(result: Result, limit: int | None) -> None:
    found = result.preview
    begin, end = max(result.since, result.window.since), result.window.until
    click.echo(
        f"{found.edges} edges recorded from {stamp(begin)} to {stamp(end)}, {found.touched} of pods that"
        f" these policies are about: {len(found.changes)} would change, {len(found.breaking())} would break"
    )
    for line in result.unseen:
        click.echo(f"  not seen: {line}")
    if not found.changes:
        return
    click.echo()
    shown = found.changes[:limit]
    print_table(
        ("LAST", "COUNT", "FROM", "TO", "PORT", "WAS", "NOW", "WOULD BE", "BY", "NOTE"), map(_row, shown)
    )
    if len(shown) < len(found.changes):
        click.echo(f"\n{len(found.changes) - len(shown)} more: --all or -o json shows them")


def _row(change: Change) -> tuple[object, ...]:
    key = change.edge.key
    return (
        stamp(change.edge.last),
        change.edge.count,
        key.source,
        key.destination,
        _port(key),
        key.verdict.value,
        change.now.value,
        change.then.value,
        _rule(change.then_rule, key.direction),
        "\n".join(change.notes) or "-",
    )


def _port(key: EdgeKey) -> str:
    name = PROTOCOLS.get(key.protocol, str(key.protocol))
    if key.protocol in (ICMP, ICMPV6):
        return f"{name} {key.port >> 8}/{key.port & 255}"
    return f"{key.port}/{name}"


def _rule(rule: RuleRef | None, direction: Direction) -> str:
    return f"{direction.name.lower()}: no rule" if rule is None else f"{rule.policy} {place(rule)}"
