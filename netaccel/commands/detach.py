# SPDX-License-Identifier: Apache-2.0
"""``netaccel detach``: the datapath leaves no trace."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click

from netaccel.commands.output import bpffs_option, emit, examples, output_option
from netaccel.commands.pinned import require_root
from netaccel.datapath import ownmounts, ports
from netaccel.datapath.attach import Attacher
from netaccel.datapath.instance import Instance
from netaccel.datapath.mounts import OWN_BPFFS, USUAL_BPFFS
from netaccel.errors import DatapathError
from netaccel.observe.edges.recorder import EDGES
from netaccel.observe.edges.schema import remove as remove_edges

_PATIENCE = 10.0  # seconds for an agent to stop


@click.command(
    epilog=examples(
        "netaccel detach",
        "netaccel detach --stop-agent",
        "netaccel detach --bpffs /sys/fs/bpf -o json",
    )
)
@click.option("--stop-agent", is_flag=True, help="Stop a running agent first, instead of refusing.")
@bpffs_option
@output_option
def detach(stop_agent: bool, bpffs: str, output: str) -> None:
    """Remove every program, link, pin, sysctl and file that the agent made, and nothing else.

    Run it in the node's network namespace. Connections through Services end; those that were translated at
    connect() go on. Nothing to remove is no failure. What `netaccel mounts` mounted goes too, unless the pins
    are elsewhere.
    """
    require_root()
    instance = Instance(Path(bpffs))
    removed = remove(instance, stop_agent=stop_agent) if instance.exists() else []
    if instance.bpffs in (OWN_BPFFS, USUAL_BPFFS):
        removed += ownmounts.remove()
    emit(output, {"removed": removed}, lambda: _print(instance, removed))


def remove(instance: Instance, *, stop_agent: bool = False) -> list[str]:
    """Take everything of the node away; a line for each. DatapathError while an agent serves it."""
    if stop_agent:
        _stop(instance)
    elif pid := instance.agent_pid():
        raise DatapathError(
            f"an agent (pid {pid}) serves {instance.folder}: stop it first, or give --stop-agent"
        )
    instance.lock()
    removed = Attacher(instance).detach_all()
    released = ports.release(instance)
    if released:
        removed.append(f"reserved ports {ports.format_ports(released)}")
    removed += [f"map {pin.name}" for pin in sorted(instance.maps.glob("*"))]
    removed += _forget_edges(instance)
    instance.remove()
    instance.unlock()
    return removed


def _forget_edges(instance: Instance) -> list[str]:
    """Remove what was recorded of this node's traffic, which is on disk."""
    noted = instance.note(EDGES)
    try:
        return [f"recorded edges {noted}"] if noted and remove_edges(Path(noted)) else []
    except OSError as error:
        raise DatapathError(
            f"recorded edges {noted}: {error.strerror}: remove them yourself, then try again",
            error.errno or 0,
        ) from error


def _stop(instance: Instance) -> None:
    pid = instance.agent_pid()
    if not pid:
        return
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError as error:
        raise DatapathError(f"the agent (pid {pid}) is in another pid namespace: stop it there") from error
    until = time.monotonic() + _PATIENCE
    while instance.agent_pid():
        if time.monotonic() > until:
            raise DatapathError(
                f"the agent (pid {pid}) did not stop within {_PATIENCE:.0f} s: end it, then try again"
            )
        time.sleep(0.05)


def _print(instance: Instance, removed: list[str]) -> None:
    if not removed:
        click.echo(f"nothing to remove at {instance.folder}")
    for line in removed:
        click.echo(f"removed {line}")
