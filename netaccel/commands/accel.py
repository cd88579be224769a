# SPDX-License-Identifier: Apache-2.0
"""``netaccel accel``: which connections of this node go from socket to socket, and why others don't."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import click
import msgspec

from netaccel.accelerate.view import Carried, Connection, Receipt, Status, Tier
from netaccel.commands.asking import Parameters, agent_at, answer
from netaccel.commands.output import DEGRADED, emit, examples, http_option, output_option, print_table
from netaccel.errors import DatapathError, QuestionError
from netaccel.explain.ends import EndKind, parse_end

_T = TypeVar("_T")
_RECEIPTS = ("SERVICE", "CLIENT", "SERVER", "CONNECTIONS", "MESSAGES", "BYTES", "BY TCP", "PASSES")
_THROUGH_STACK = "packets go through the node's stack"
_CONNECTIONS = ("PORT", "REMOTE", "PATH", "BY SOCKET", "BY TCP", "WHY")


@click.group()
def accel() -> None:
    """Same-node acceleration: TCP between two pods of this node, from socket to socket."""


@accel.command(
    epilog=examples(
        "netaccel accel status",
        "netaccel accel status -o json | jq .totals",
        "kubectl -n netaccel exec ds/netaccel -- netaccel accel status",
    )
)
@http_option
@output_option
def status(http: str, output: str) -> None:
    """Say which tier is in force, what this kernel's self-test found, and what was carried.

    BYTES and MESSAGES went from socket to socket, both ways together, since the node's start, whatever became
    of agents; BY TCP: bytes of the same connections that did not, PASSES: in how many messages, by reason.
    Exit status 3: a tier that the settings ask for is not in force.
    """
    raw, found = _ask(http, "/api/v1/accel/status", (), Status)
    emit(output, raw, lambda: _print_status(found))
    if any(tier.asked and not tier.on for tier in (found.peer, found.socket)):
        raise click.exceptions.Exit(DEGRADED)


@accel.command(
    epilog=examples(
        "netaccel accel show pod:shop/web-0",
        "netaccel accel show pod:web-0 -o json | jq '.[] | select(.carried.path != \"socket\") | .reason'",
    )
)
@click.argument("pod", metavar="pod:[NAMESPACE/]NAME")
@http_option
@output_option
def show(pod: str, http: str, output: str) -> None:
    """Show a pod's TCP connections: the path of each, what went by which, and why it is no other.

    PATH: socket (from socket to socket), peer (past the node's stack) or tc. BY SOCKET, BY TCP: bytes sent /
    received. WHY: what keeps it from the path socket; where it has that, which messages went by TCP all the
    same. Above them stands why packets go through the node's stack, where they do.
    """
    end = parse_end(pod)
    if end.kind is not EndKind.POD or end.port is not None:
        raise QuestionError(f"{pod!r}: give pod:NAMESPACE/NAME")
    name = f"{end.namespace}/{end.name}"
    raw, found = _ask(http, "/api/v1/accel/connections", (("pod", name),), list[Connection])
    _, node = _ask(http, "/api/v1/accel/status", (), Status)
    emit(output, raw, lambda: _print_connections(name, found, node))


def _ask(http: str, path: str, parameters: Parameters, shape: type[_T]) -> tuple[object, _T]:
    """The agent's answer, as it came and read."""
    listen = agent_at(http)
    with answer(listen, path, parameters) as found:
        try:
            raw = msgspec.json.decode(found.read())
            return raw, msgspec.convert(raw, shape)
        except msgspec.MsgspecError as error:
            raise DatapathError(f"http://{listen}{path}: {error}: is it of another version?") from error


def _print_status(found: Status) -> None:
    click.secho(f"node {found.node}", bold=True)
    click.echo(f"  tier 0, peer: {_tier(found.peer)}")
    click.echo(f"  tier 1, socket: {_tier(found.socket)}")
    failed = [check.name for check in found.checks if not check.ok]
    if found.socket.on and failed:
        click.echo(f"  left with TCP: programs that may do what this kernel gets wrong: {', '.join(failed)}")
    totals = found.totals
    if found.socket.on or totals.live or totals.leaving:
        click.echo(f"  pairs: {totals.live} live of {totals.capacity}, {totals.leaving} leaving")
        out = f" ({_listed(totals.out)})" if totals.out else ""
        click.echo(
            f"  since the agent's start: {totals.promotions} accelerated, {totals.evictions} left{out},"
            f" {totals.deferred} of them waited for a reader"
        )
        click.echo(f"  queued at receivers: {totals.queued_bytes} bytes")
    if totals.refused:
        click.echo(f"  not accelerated: {_listed(totals.refused)}")
    for line in found.unreachable:
        click.echo(f"  out of reach: {line}")
    for line in found.through_stack:
        click.echo(f"  {_THROUGH_STACK}: {line}")
    if found.checks:
        click.echo()
        print_table(
            ("SELF-TEST", "RESULT", "SEEN"),
            ((check.name, "ok" if check.ok else "FAILED", check.detail or "-") for check in found.checks),
        )
    click.echo()
    print_table(_RECEIPTS, map(_receipt, found.receipts), empty="no receipts")


def _tier(tier: Tier) -> str:
    if tier.on:
        return f"in force{f', {tier.reason}' if tier.reason else ''}"
    return f"{'NOT IN FORCE' if tier.asked else 'off'}: {tier.reason}"


def _receipt(receipt: Receipt) -> tuple[object, ...]:
    return (
        receipt.service or "-",
        receipt.client,
        receipt.server,
        receipt.connections,
        receipt.messages,
        receipt.bytes,
        receipt.tcp_bytes,
        "\n".join(_each(receipt.passes)) or "-",
    )


def _print_connections(name: str, found: Sequence[Connection], node: Status) -> None:
    fast = sum(one.carried.path == "socket" for one in found)
    click.secho(f"pod {name}: {len(found)} TCP connections, {fast} from socket to socket", bold=True)
    own = (line for line in node.through_stack if line.startswith(f"{name}: "))
    for line in dict.fromkeys((*own, *(one.tcp_reason for one in found if one.tcp_reason))):
        click.echo(f"  {_THROUGH_STACK}: {line}")
    if found:
        click.echo()
        print_table(_CONNECTIONS, map(_connection, found))


def _connection(one: Connection) -> tuple[object, ...]:
    carried = one.carried
    service = f"\n{one.service}" if one.service else ""
    return (
        one.local_port,
        f"{_remote(one)}{service}",
        carried.path,
        f"{carried.sent_bytes}/{carried.received_bytes}",
        _by_tcp(carried),
        one.reason or (f"by TCP: {_listed(one.passes)}" if one.passes else "-"),
    )


def _by_tcp(carried: Carried) -> str:
    by = f" {carried.tcp_path}" if carried.tcp_path and carried.path == "socket" else ""
    return f"{carried.tcp_sent_bytes}/{carried.tcp_received_bytes}{by}"


def _remote(one: Connection) -> str:
    if one.peer:
        return f"{one.peer}:{one.remote_port}"
    return f"[{one.remote}]:{one.remote_port}" if ":" in one.remote else f"{one.remote}:{one.remote_port}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(_each(counts))


def _each(counts: Mapping[str, int]) -> Iterator[str]:
    """``blocking 3``, the most first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return (f"{reason} {count}" for reason, count in ordered if count)
