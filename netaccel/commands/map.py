# SPDX-License-Identifier: Apache-2.0
"""``netaccel map``: any map of the datapath in words, with or without an agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from netaccel.api.views import map_rows
from netaccel.commands.output import bpffs_option, emit, examples, output_option, print_table
from netaccel.commands.pinned import pinned_maps


@click.group("map")
def map_group() -> None:
    """Any map of the datapath, in words."""


@map_group.command(
    epilog=examples(
        "netaccel map dump                    # names, entries, room, kernel memory",
        "netaccel map dump frontends",
        "netaccel map dump flows -o json | jq '.[] | select(.state == \"syn\")'",
    )
)
@click.argument("name", required=False)
@bpffs_option
@output_option
def dump(name: str | None, bpffs: str, output: str) -> None:
    """Dump map NAME; without NAME say which maps there are.

    Arrays leave out what is all zero; counters are summed over CPUs.
    """
    with pinned_maps(bpffs) as (maps, abi):
        if name is None:
            memory = maps.memory()
            rows = [
                {
                    "map": map_name,
                    "entries": maps.count(map_name),
                    "capacity": maps.capacity(map_name),
                    "memory": sum(memory.get(map_name + half, 0) for half in ("", "4", "6")),
                }
                for map_name in maps.names()
            ]
        else:
            rows = map_rows(name, maps.dump(name), abi)
    emit(output, rows, lambda: print_table(*_table(rows), empty="empty"))


def _table(rows: Sequence[dict[str, object]]) -> tuple[Sequence[str], Iterator[Sequence[object]]]:
    headings = list(rows[0]) if rows else []
    return [heading.upper() for heading in headings], (
        [_cell(row[heading]) for heading in headings] for row in rows
    )


def _cell(value: object) -> str:
    return ",".join(map(str, value)) or "-" if isinstance(value, list) else str(value)
