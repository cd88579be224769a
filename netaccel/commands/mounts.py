# SPDX-License-Identifier: Apache-2.0
"""``netaccel mounts``: what the agent needs of the node's file systems, made to be there."""

from __future__ import annotations

import click

from netaccel.commands.output import emit, examples, output_option
from netaccel.commands.pinned import require_root
from netaccel.datapath import ownmounts


@click.command(epilog=examples("netaccel mounts", "netaccel mounts --remove", "netaccel mounts -o json"))
@click.option("--remove", is_flag=True, help="Unmount them instead; `netaccel detach` does it too.")
@output_option
def mounts(remove: bool, output: str) -> None:
    """Mount a bpf file system and the node's cgroup v2 tree below /run/netaccel.

    The agent and all commands use what is mounted there. In a pod it takes a privileged container with the
    node's process ids and the node's /run/netaccel; the agent itself need not be privileged then. What is
    mounted already is left alone.
    """
    require_root()
    done = ownmounts.remove() if remove else ownmounts.make()
    told = [f"removed {line}" for line in done] if remove else done
    emit(
        output,
        {"removed" if remove else "mounts": done},
        lambda: click.echo("\n".join(told) or "nothing to remove"),
    )
