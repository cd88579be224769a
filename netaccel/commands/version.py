# SPDX-License-Identifier: Apache-2.0
"""``netaccel version``."""

from __future__ import annotations

import platform

import click

from netaccel import __version__
from netaccel.commands.output import emit, examples, output_option


@click.command(epilog=examples("netaccel version", "netaccel version -o json"))
@output_option
def version(output: str) -> None:
    """Print the version of netaccel, Python and the kernel."""
    facts = {"netaccel": __version__, "python": platform.python_version(), "kernel": platform.release()}
    emit(output, facts, lambda: click.echo("\n".join(f"{name} {value}" for name, value in facts.items())))
