# SPDX-License-Identifier: Apache-2.0
"""``netaccel status``: asks the agent; where there is none, says what the pinned datapath still serves."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from netaccel.commands.output import (
    DEGRADED,
    bpffs_option,
    emit,
    examples,
    http_option,
    output_option,
    print_table,
)
from netaccel.commands.pinned import pinned_maps
from netaccel.config import HostPort, parse_host_port
from netaccel.datapath.instance import Instance
from netaccel.errors import ConfigError, DatapathError
from netaccel.observe.figures import in_force


@click.command(
    epilog=examples(
        "netaccel status",
        "netaccel status --http 10.0.0.5:9962",
        "netaccel status -o json | jq .hooks",
        "netaccel status >/dev/null || echo 'not well'",
    )
)
@http_option
@bpffs_option
@output_option
def status(http: str, bpffs: str, output: str) -> None:
    """Say whether this node is served, by which hooks, what was refused.

    Exit status 0: all is as asked; 3: degraded, not ready, or no agent.
    """
    try:
        listen = parse_host_port(http)
    except ValueError as error:
        raise ConfigError(f"--http: {error}") from error
    found = ask(listen)
    if found is None:
        found = _without_agent(listen, bpffs)
    emit(output, found, lambda: _print(found))
    if not found["ready"] or found["warnings"] or found["refused"]:
        raise click.exceptions.Exit(DEGRADED)


def ask(listen: HostPort) -> dict[str, Any] | None:
    """The agent's /status, None where nobody listens. DatapathError for an answer that isn't one."""
    connection = http.client.HTTPConnection(listen.host or "127.0.0.1", listen.port, timeout=10)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        body = answer.read()
    except ConnectionRefusedError:
        return None
    except (OSError, http.client.HTTPException) as error:
        raise DatapathError(
            f"http://{listen}/status: {error}: is it the agent that listens there?"
        ) from error
    finally:
        connection.close()
    try:
        found: dict[str, Any] = json.loads(body)
        if answer.status != 200 or "ready" not in found:
            raise ValueError(f"status {answer.status}")
    except ValueError as error:
        raise DatapathError(f"http://{listen}/status is no answer of an agent: give --http") from error
    return found


def _without_agent(listen: HostPort, bpffs: str) -> dict[str, Any]:
    """What a node without an agent still does: the pinned datapath goes on with the last state."""
    instance = Instance(Path(bpffs))
    if not instance.exists():
        raise DatapathError(
            f"no agent listens at {listen} and no datapath is pinned at {instance.folder}:"
            " start `netaccel agent`, or give --http and --bpffs"
        )
    pid = instance.agent_pid()
    with pinned_maps(bpffs) as (maps, _):
        counts = in_force(maps)
    reason = f"the agent (pid {pid}) does not answer at {listen}" if pid else "no agent is running"
    return {
        "ready": False,
        "reasons": [f"{reason}; the pinned datapath goes on with the last state"],
        "warnings": [],
        "refused": [],
        "waiting": [],
        "counts": counts,
        "pinned": str(instance.folder),
    }


def _print(found: dict[str, Any]) -> None:
    title = f"node {found['node']}: " if "node" in found else ""
    click.secho(title + ("ready" if found["ready"] else "NOT READY"), bold=True)
    for kind in ("reasons", "warnings", "notes"):
        for line in found.get(kind, ()):
            click.echo(f"  {kind[:-1]}: {line}")
    facts = {
        name: f"{found[name]} s" if name == "uptime" else found[name]
        for name in ("version", "mode", "kernel", "pid", "uptime", "drift_repaired")
        if name in found
    }
    if facts:
        click.echo("  " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in facts.items()))
    click.echo("  map entries: " + ", ".join(f"{name} {count}" for name, count in found["counts"].items()))
    for source in found.get("sources", ()):
        click.echo(f"  from {source['kind']} at {source['where']}{_freshness(source)}")
    if flows := found.get("flows"):
        events = flows["events"]
        parts = ", ".join(f"{name} {events[name]}" for name in ("seen", "aggregated", "lost", "unparsable"))
        click.echo(f"  flow events: {parts}; {flows['records']} records kept")
    if "hooks" in found:
        click.echo()
        print_table(("HOOK", "WHERE", "PROGRAM", "MODE", "NOTE"), _hooks(found), "no program is attached")
    if found["refused"]:
        click.echo()
        print_table(
            ("OBJECT", "STATE", "WHERE", "REASON"),
            ([entry[c] for c in ("object", "state", "where", "reason")] for entry in found["refused"]),
        )
    if "policy" in found:
        click.echo(f"  policy: {_policy(found['policy'])}")
    if told := found.get("acceleration"):
        click.echo(f"  acceleration: {_acceleration(told)}")
    for line in _pods(found.get("pods", {})):
        click.echo(f"  {line}")
    for reason, count in found.get("ignored", {}).items():
        click.echo(f"  left alone: {count} Service{'s' if count > 1 else ''}: {reason}")
    if found["waiting"]:
        click.echo()
        for line in found["waiting"]:
            click.echo(f"  {line}")


def _policy(policy: dict[str, Any] | None) -> str:
    """Whether policy is on, and for how many pods."""
    if policy is None:
        return "off"
    strict = ", strict" if policy["strict"] else ""
    return f"on{strict}, {policy['enforced']} pods have theirs (revision {policy['revision']})"


def _acceleration(told: dict[str, Any]) -> str:
    """The tiers in force; of those that are not, why."""
    tiers = (
        f"{name} on" if told[name]["on"] else f"{name} off: {told[name]['reason'] or 'not in force'}"
        for name in ("peer", "socket")
    )
    live = told["live"]
    return f"{'; '.join(tiers)}; {live} connection{'' if live == 1 else 's'} from socket to socket"


def _pods(pods: dict[str, Any]) -> Iterator[str]:
    """Pods that no policy can be enforced for."""
    for name, reason in pods.get("not_enforceable", {}).items():
        yield f"pod {name}: no policy is enforced: {reason}"
    if count := len(pods.get("host_network", ())):
        yield f"{count} pod{'s' if count > 1 else ''} on the host's network: policies don't reach them"


def _freshness(source: dict[str, Any]) -> str:
    """How old what is in force may be, where it isn't current."""
    if not source["problem"]:
        return ""
    age = source["age"]
    return ", never heard" if age is None else f", last current {age:.0f} s ago"


def _hooks(found: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """A row for each place, whose programs are counted where they are many."""
    programs: dict[tuple[str, str, str, str], list[str]] = {}
    for hook in found["hooks"]:
        programs.setdefault((hook["hook"], hook["where"], hook["mode"], hook["note"]), []).append(
            hook["program"]
        )
    for (name, where, mode, note), names in programs.items():
        yield name, where, names[0] if len(names) == 1 else f"{len(names)} programs", mode, note
