# SPDX-License-Identifier: Apache-2.0
"""The ``netaccel`` command: names its subcommands and imports only the one that runs.

Exit status: 0 done, 1 failed, 2 usage, 3 degraded or not ready, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple, cast

import click

from netaccel import __version__
from netaccel.errors import INTERRUPTED, NetaccelError


class _Lazy(NamedTuple):
    """Where a command is, and what it says of itself (so that ``--help`` imports none)."""

    module: str
    attribute: str
    help: str


_COMMANDS = {
    "agent": _Lazy("netaccel.commands.agent", "agent", "Serve this node: attach, watch, reconcile."),
    "status": _Lazy(
        "netaccel.commands.status", "status", "Is this node served, by which hooks, what was refused."
    ),
    "doctor": _Lazy(
        "netaccel.commands.doctor", "doctor", "What this kernel can do, and what is used instead."
    ),
    "service": _Lazy("netaccel.commands.service", "service", "Services as the kernel's maps hold them."),
    "policy": _Lazy(
        "netaccel.commands.policy", "policy", "Policies: what they select, what they would have dropped."
    ),
    "explain": _Lazy("netaccel.commands.explain", "explain", "Would it be allowed, and which rule says so."),
    "flows": _Lazy("netaccel.commands.flows", "flows", "Who talks to whom, with verdict and rule."),
    "drops": _Lazy("netaccel.commands.drops", "drops", "What was not carried, where and why."),
    "accel": _Lazy(
        "netaccel.commands.accel", "accel", "Connections that go from socket to socket, and why others don't."
    ),
    "map": _Lazy("netaccel.commands.map", "map_group", "Any map, readable."),
    "detach": _Lazy(
        "netaccel.commands.detach", "detach", "Remove all that the agent made, and nothing else."
    ),
    "mounts": _Lazy("netaccel.commands.mounts", "mounts", "Mount what the agent needs and this node lacks."),
    "cluster": _Lazy("netaccel.cluster.commands", "cluster", "A real Kubernetes cluster on this machine."),
    "lab": _Lazy("netaccel.lab.commands", "lab", "Nodes and pods in namespaces of this machine."),
    "version": _Lazy("netaccel.commands.version", "version", "The version of netaccel."),
}


class _Group(click.Group):
    """A group whose commands are imported on use, and whose errors are one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, lazy in _COMMANDS.items() if importlib.util.find_spec(lazy.module)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = _COMMANDS.get(cmd_name)
        if lazy is None or not importlib.util.find_spec(lazy.module):
            return None
        try:
            module = importlib.import_module(lazy.module)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("netaccel"):
                raise
            raise click.ClickException(
                f"{cmd_name}: Python package {error.name} is missing: pip install 'netaccel[{cmd_name}]'"
            ) from error
        return cast("click.Command", getattr(module, lazy.attribute))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name].help) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # whoever pressed Ctrl-C knows it
            raise click.exceptions.Exit(INTERRUPTED) from None
        except NetaccelError as error:
            click.echo(f"netaccel: {error}", err=True)
            raise click.exceptions.Exit(1) from error


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`netaccel COMMAND --help` shows examples. Exit status: 0 done, 1 failed, 2 usage, 3 degraded.",
)
@click.version_option(__version__, prog_name="netaccel")
def netaccel() -> None:
    """Kubernetes Services in eBPF, beside any CNI."""
