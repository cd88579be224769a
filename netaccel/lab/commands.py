# SPDX-License-Identifier: Apache-2.0
"""``netaccel lab``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from netaccel.commands.output import emit, examples, output_option, print_table
from netaccel.errors import ConfigError
from netaccel.lab import lifecycle
from netaccel.lab.handle import Lab
from netaccel.lab.plan import paths
from netaccel.lab.process import become
from netaccel.lab.refused import COLUMNS, refused
from netaccel.lab.shell import require_root_and_tools
from netaccel.lab.state import State

DEFAULT_NAME = "lab"
_name_option = click.option(
    "--name",
    default=DEFAULT_NAME,
    envvar="NETACCEL_LAB",
    show_default=True,
    help="Which lab; several live side by side.",
)


@click.group(
    epilog=examples(
        "netaccel lab up --manifests examples",
        "netaccel lab status",
        "netaccel lab exec pod:default/web-0 -- curl -s http://10.96.0.10/",
        "netaccel lab exec client -- curl -s http://172.30.0.12:30080/",
        "netaccel lab exec node-1 -- netaccel service list",
        "netaccel lab down",
    )
)
def lab() -> None:
    """Nodes, pods and an outside client in network namespaces of this machine."""


@lab.command(
    epilog=examples(
        "netaccel lab up",
        "netaccel lab up --name two --nodes 2 --manifests examples --complete-checksums",
    )
)
@_name_option
@click.option("--nodes", default=3, show_default=True, help="How many nodes, 1 to 32.")
@click.option(
    "--manifests",
    type=click.Path(exists=True, file_okay=False, readable=True, path_type=Path),
    help="Folder of manifests that is watched; unset: an empty one of the lab's own.",
)
@click.option(
    "--complete-checksums",
    is_flag=True,
    help="Put a hop between nodes and switch that completes checksums, as a real network card does.",
)
@click.option(
    "--uplink-mode",
    type=click.Choice(["auto", "tc"]),
    default="auto",
    show_default=True,
    help="tc: leave XDP off.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="A setting of every agent, as strict=true; `netaccel agent --help` names them.",
)
@click.option("--agents/--no-agents", default=True, help="Run an agent on each node.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds until all must be ready.")
def up(
    name: str,
    nodes: int,
    manifests: Path | None,
    complete_checksums: bool,
    uplink_mode: str,
    settings: tuple[str, ...],
    agents: bool,
    timeout: float,
) -> None:
    """Bring a lab up and wait until pods and agents are ready.

    Pods run the command of their first container as processes of this machine; images are not used.
    """
    started = time.monotonic()
    folder = manifests.resolve() if manifests else paths(name).manifests
    asked = dict(pair.split("=", 1) for pair in settings if "=" in pair)
    if len(asked) < len(settings):
        raise ConfigError("--set: give NAME=VALUE, as strict=true, each name once")
    state = State(name, nodes, str(folder), complete_checksums, uplink_mode, agents, asked)
    status = lifecycle.up(state, click.echo, timeout=timeout)
    click.echo(
        f"lab {name}: {len(status['nodes'])} nodes, {len(status['pods'])} pods ready"
        f" in {time.monotonic() - started:.1f} s; manifests: {folder}"
    )
    for what, problem in status["problems"].items():
        click.echo(f"  {what}: {problem}")


@lab.command()
@_name_option
def down(name: str) -> None:
    """Take a lab down, whatever is left of it."""
    lifecycle.down(name, click.echo)


@lab.command(
    name="exec",
    context_settings={"ignore_unknown_options": True},
    epilog=examples(
        "netaccel lab exec node-1 -- netaccel status",
        "netaccel lab exec pod:default/web-0 -- curl -s http://10.96.0.10/",
        "netaccel lab exec client",
    ),
)
@_name_option
@click.argument("target")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def exec_(name: str, target: str, command: tuple[str, ...]) -> None:
    """Run a command (or a shell) in a node, a pod, the client, the router or the switch."""
    require_root_and_tools()
    found = Lab(name).target(target)
    become(found.place, command or (os.environ.get("SHELL", "/bin/sh"),), found.environment)


@lab.command()
@_name_option
@output_option
def status(name: str, output: str) -> None:
    """Show a lab's nodes, agents, pods and Services, and (to root) what its agents refuse."""
    lab = Lab(name)
    found: dict[str, Any] = {"name": name, "running": lifecycle.is_running(name), **lab.status()}
    _ask_agents(lab, found)
    emit(output, found, lambda: _print(found))
    if not found["running"]:
        click.echo(f"its controller is not running: `netaccel lab up --name {name}` mends it", err=True)
        raise click.exceptions.Exit(1)
    if lifecycle.unready(found):
        raise click.exceptions.Exit(3)


def _ask_agents(lab: Lab, found: dict[str, Any]) -> None:
    """Add what ready agents refuse, and which of them did not say."""
    if os.geteuid() != 0:
        return
    ready = [n["name"] for n in found.get("nodes", []) if n["agent"] and n["agent"]["ready"]]
    found["refused"], silent = refused(lab, ready)
    found["problems"] = {**found.get("problems", {}), **silent}


@lab.command(name="list")
@output_option
def list_(output: str) -> None:
    """List the labs of this machine."""
    found = [{"name": name, "running": lifecycle.is_running(name)} for name in lifecycle.names()]
    rows = [(item["name"], "up" if item["running"] else "half there") for item in found]
    emit(output, found, lambda: print_table(("LAB", "STATE"), rows, empty="no labs"))


@lab.command(
    epilog=examples(
        "netaccel lab demo",
        "KEEP=1 netaccel lab demo    # leaves the lab up",
    )
)
def demo() -> None:
    """Show all that netaccel does, step by step, in a lab of its own."""
    from netaccel.lab.demo import run_demo

    raise click.exceptions.Exit(run_demo(keep=os.environ.get("KEEP", "") not in ("", "0")))


def _print(found: dict[str, Any]) -> None:
    nodes = [
        (n["name"], "\n".join(n["addresses"]), n["zone"], _agent(n["agent"])) for n in found.get("nodes", [])
    ]
    print_table(("NODE", "ADDRESSES", "ZONE", "AGENT"), nodes)
    click.echo()
    pods = [
        (f"{p['namespace']}/{p['name']}", p["node"], "\n".join(p["addresses"]), _pod(p), p["restarts"])
        for p in found.get("pods", [])
    ]
    print_table(("POD", "NODE", "ADDRESSES", "STATE", "RESTARTS"), pods, empty="no pods")
    click.echo()
    services = [
        (
            f"{s['namespace']}/{s['name']}",
            s["type"],
            "\n".join(s["clusterIPs"]),
            "\n".join(s["outside"]),
            "\n".join(
                f"{p['port']}{':' + str(p['nodePort']) if p['nodePort'] else ''}/{p['protocol']}"
                for p in s["ports"]
            ),
        )
        for s in found.get("services", [])
    ]
    print_table(("SERVICE", "TYPE", "CLUSTER-IP", "OUTSIDE", "PORTS"), services, empty="no services")
    if found.get("refused"):
        click.echo()
        rows = [(*(entry[name] for name in COLUMNS), "\n".join(entry["nodes"])) for entry in found["refused"]]
        print_table((*(name.upper() for name in COLUMNS), "NODES"), rows)
    for what, problem in found.get("problems", {}).items():
        click.echo(f"{what}: {problem}")


def _agent(agent: dict[str, Any] | None) -> str:
    if agent is None:
        return "none"
    state = "ready" if agent["ready"] else f"not ready: {agent['message']}"
    return f"{state} (pid {agent['pid']}, {agent['restarts']} restarts)"


def _pod(pod: dict[str, Any]) -> str:
    state = "ready" if pod["ready"] else "running" if pod["running"] else "not running"
    if pod["terminating"]:
        state += ", terminating"
    return f"{state}: {pod['message']}" if pod["message"] else state
