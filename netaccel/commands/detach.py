# SPDX-License-Identifier: Apache-2.0
"""``netaccel detach``: the datapath leaves no trace."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import NamedTuple

import click

from netaccel.accelerate.receipts import RECEIPTS
from netaccel.commands.output import bpffs_option, emit, examples, output_option
from netaccel.commands.pinned import require_root
from netaccel.datapath import libbpf, ownmounts, peers, ports
from netaccel.datapath.attach import Attacher
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.clock import jiffies_per_second
from netaccel.datapath.instance import Instance
from netaccel.datapath.mounts import OWN_BPFFS, USUAL_BPFFS, find_cgroup
from netaccel.errors import DatapathError
from netaccel.observe.edges.recorder import EDGES
from netaccel.observe.edges.schema import remove as remove_edges

_PATIENCE = 10.0  # seconds for an agent to stop
_ACCEL = "accel_"  # what the names of acceleration's maps begin with
_SOCKETS = "accel_map"  # the one whose end takes away what its sockets have not read; old ones behind it
_LEFT = 3  # exit status: something is still there


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
    connect() go on. Accelerated ones go back to TCP; one whose reader does not read for ten seconds keeps the
    maps of acceleration, which is told: exit status 3, and another run once it has read or is closed. Nothing
    to remove is no failure. What `netaccel mounts` mounted goes too, unless the pins are elsewhere.
    """
    require_root()
    instance = Instance(Path(bpffs))
    done = remove(instance, stop_agent=stop_agent) if instance.exists() else Done([], [])
    if instance.bpffs in (OWN_BPFFS, USUAL_BPFFS) and not done.left:
        done.removed.extend(ownmounts.remove())
    emit(output, done._asdict(), lambda: _print(instance, done))
    if done.left:
        raise SystemExit(_LEFT)


class Done(NamedTuple):
    """A line for each thing that was removed, and for each that is still there."""

    removed: list[str]
    left: list[str]


def remove(instance: Instance, *, stop_agent: bool = False) -> Done:
    """Take everything of the node away. DatapathError while an agent serves it."""
    if stop_agent:
        _stop(instance)
    elif pid := instance.agent_pid():
        raise DatapathError(
            f"an agent (pid {pid}) serves {instance.folder}: stop it first, or give --stop-agent"
        )
    instance.lock()
    removed, left = _back_to_tcp(instance)
    peers.disarm(instance.maps)  # both directions of a flow turn before the first hook is empty
    removed += Attacher(instance).detach_all()
    released = ports.release(instance)
    if released:
        removed.append(f"reserved ports {ports.format_ports(released)}")
    kept = {pin.name for pin in instance.maps.glob(f"{_ACCEL}*")} if left else set()
    removed += [f"map {pin.name}" for pin in sorted(instance.maps.glob("*")) if pin.name not in kept]
    removed += _forget_edges(instance) + _forget_receipts(instance)
    instance.remove(kept)
    instance.unlock()
    return Done(removed, left)


def _back_to_tcp(instance: Instance) -> tuple[list[str], list[str]]:
    """Lines for accelerated connections that are none any more, and for those that still are."""
    pins = [pin for pin in instance.maps.glob(f"{_SOCKETS}*") if _has_sockets(pin)]
    if not pins:
        return [], []
    from netaccel.accelerate.leave import leave  # half a second of imports

    left = [f"{pin.name}: sockets of an earlier version" for pin in pins if pin.name != _SOCKETS]
    try:
        count, stuck = leave(instance.maps, find_cgroup(None), jiffies_per_second())
    except DatapathError as error:
        return [], [*left, f"accelerated connections: {error}"]
    removed = [f"acceleration of {count} connections"] if count else []
    return removed, left + [f"acceleration of {ends}: unread, or not within reach" for ends in stuck]


def _has_sockets(pin: Path) -> bool:
    with KernelMap.open_pinned(pin) as there:
        return libbpf.map_next_key(there.fd, None, there.info.key_size) is not None


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


def _forget_receipts(instance: Instance) -> list[str]:
    """Remove what was counted of its accelerated connections, which is on disk."""
    noted = instance.note(RECEIPTS)
    if not noted or not Path(noted).exists():
        return []
    try:
        Path(noted).unlink()
    except OSError as error:
        raise DatapathError(
            f"receipts {noted}: {error.strerror}: remove them yourself, then try again", error.errno or 0
        ) from error
    for folder in list(Path(noted).parents)[:2]:
        with contextlib.suppress(OSError):  # others' files are in it, or it is a mount
            folder.rmdir()
    return [f"receipts {noted}"]


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


def _print(instance: Instance, done: Done) -> None:
    if not done.removed and not done.left:
        click.echo(f"nothing to remove at {instance.folder}")
    for line in done.removed:
        click.echo(f"removed {line}")
    for line in done.left:
        click.echo(f"left {line}")
