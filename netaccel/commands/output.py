# SPDX-License-Identifier: Apache-2.0
"""One way to print: tables for people, JSON for programs; and what the commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from netaccel.datapath.mounts import OWN_BPFFS, USUAL_BPFFS, find_bpffs

DEGRADED = 3
"""Exit status: it works, but not as it was asked to, or not yet."""

_F = TypeVar("_F", bound=Callable[..., Any])


def output_option(command: _F) -> _F:
    """Add ``-o table|json``."""
    return click.option(
        "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True
    )(command)


def bpffs_option(command: _F) -> _F:
    """Add ``--bpffs``, where the pinned maps are."""
    return click.option(
        "--bpffs",
        callback=lambda _context, _option, given: str(find_bpffs(Path(given) if given else None)),
        envvar="NETACCEL_BPFFS",
        show_envvar=True,
        help="Folder of the bpf file system that holds this node's pins."
        f" [default: {OWN_BPFFS} where that is mounted, else {USUAL_BPFFS}]",
    )(command)


def http_option(command: _F) -> _F:
    """Add ``--http``, where the agent listens."""
    return click.option(
        "--http",
        default="127.0.0.1:9962",
        envvar="NETACCEL_HTTP",
        show_default=True,
        show_envvar=True,
        help="Where this node's agent listens.",
    )(command)


def examples(*lines: str) -> str:
    """Lay out a command's examples for its ``epilog``; click does not wrap them."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def emit(output: str, value: object, table: Callable[[], None]) -> None:
    """Print ``value`` as JSON, or call ``table``, which prints it for people."""
    if output == "json":
        click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None, ensure_ascii=False))
    else:
        table()


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]], empty: str = "none") -> None:
    """Print columns. On a terminal cells wrap to its width; in a pipe each row is one line.

    A cell of several lines stays so on a terminal and is joined by commas in a pipe.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    if not sys.stdout.isatty():
        flat = [list(headings), *([cell.replace("\n", ",") for cell in row] for row in cells)]
        widths = [max(len(row[i]) for row in flat) for i in range(len(headings))]
        for row in flat:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in cells:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)
