# SPDX-License-Identifier: Apache-2.0
"""``netaccel drops``: what was not carried, by the programs or by the kernel: the most, or as it happens."""

from __future__ import annotations

from collections.abc import Sequence

import click
import msgspec

from netaccel.commands.asking import Parameters, agent_at, answer
from netaccel.commands.flowfilters import filter_options, parameters, print_lines
from netaccel.commands.output import examples, http_option, print_table
from netaccel.errors import DatapathError
from netaccel.observe.flows.drops import DropTop
from netaccel.observe.flows.line import end_text, rule_text, time_text
from netaccel.observe.flows.record import FlowRecord


@click.command(
    epilog=examples(
        "netaccel drops",
        "netaccel drops -n shop --top 5",
        "netaccel drops --follow --reason 'policy_*'",
        "netaccel drops -o json | jq .reasons",
    )
)
@filter_options
@click.option("--since", metavar="AGE|DATE", help="Last seen not longer ago than 30s, 5m, 2h, 1d, or a date.")
@click.option(
    "--top", type=click.IntRange(min=1), default=20, show_default=True, metavar="N", help="How many of each."
)
@click.option("-f", "--follow", is_flag=True, help="Each as it comes, until Ctrl-C.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@http_option
def drops(
    since: str | None, top: int, follow: bool, output: str, http: str, **filters: tuple[str, ...]
) -> None:
    """Say what was dropped most: by reason, by rule, by pair; or, with --follow, each drop as it comes.

    Counts are since the datapath was made; --follow shows one a second of each pair.
    """
    if follow:
        asked = parameters(filters, {"since": since, "follow": "1"})
        print_lines(http, "/api/v1/drops", asked, as_json=output == "json")
        return
    body = _ask(http, parameters(filters, {"since": since, "top": top}))
    if output == "json":
        click.echo(body.rstrip())
        return
    try:
        _print(msgspec.json.decode(body, type=DropTop))
    except msgspec.MsgspecError as error:
        raise DatapathError(f"the agent's answer is no list of drops: {error}") from error


def _ask(http: str, asked: Parameters) -> bytes:
    with answer(agent_at(http), "/api/v1/drops", asked) as found:
        return found.read()


def _print(found: DropTop) -> None:
    if not found.reasons:
        click.echo("nothing was dropped")
        return
    click.secho(f"node {found.node}: {found.packets} packets, {found.bytes} bytes dropped", bold=True)
    if found.kept >= found.capacity * 9 // 10:
        click.echo(f"  {found.kept} pairs fill the kernel's table: those that drop least are missing")
    click.echo()
    print_table(
        ("REASON", "BY", "PACKETS", "BYTES"),
        ((one.reason, _by(one.type), one.packets, one.bytes) for one in found.reasons),
    )
    if found.rules:
        click.echo()
        print_table(
            ("RULE", "PACKETS", "BYTES"),
            ((rule_text(one.rule), one.packets, one.bytes) for one in found.rules),
        )
    click.echo()
    print_table(("FROM", "TO", "PROTOCOL", "REASON", "RULE", "PACKETS", "LAST"), _pairs(found.pairs))


def _by(kind: str) -> str:
    return "kernel" if kind == "kernel_drop" else "netaccel"


def _pairs(pairs: Sequence[FlowRecord]) -> list[tuple[object, ...]]:
    return [
        (
            end_text(pair.source, 0),
            end_text(pair.destination, 0 if pair.protocol.startswith("ICMP") else pair.destination_port),
            f"{pair.protocol.lower()} {pair.direction}",
            pair.reason,
            rule_text(pair.rule, reasons=False) if pair.rule else "-",
            pair.traffic.packets if pair.traffic else 0,
            time_text(pair.time, None),
        )
        for pair in pairs
    ]
