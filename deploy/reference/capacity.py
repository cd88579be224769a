# SPDX-License-Identifier: Apache-2.0
"""What each map takes of the kernel's memory, asked of the kernel: maps made, filled, and thrown away."""

from __future__ import annotations

import os
import platform
import random
import struct
from typing import NamedTuple

from netaccel.datapath import libbpf
from netaccel.datapath.bpfmap import KernelMap, MapType
from netaccel.datapath.bpfobject import BpfObject

MIB = 1 << 20
_OBJECT = "sock_cgroup"  # any that includes maps.h has them all
_PROBE = 4096
"""Entries written to learn what one takes."""
_SMALLEST = 64 << 10
"""Maps that take less than this, full, are not listed."""
_HOLDS = {
    "frontends4": "addresses and ports of Services, IPv4",
    "frontends6": "the same, IPv6",
    "services": "a port of a Service in one family",
    "service_counters": "as many as `services`, for each CPU",
    "backends": "endpoints in use",
    "maglev": "tables: up to a hundred slots for each endpoint of a service port",
    "source_ranges": "`loadBalancerSourceRanges`",
    "flows4": "two for each flow through this node, IPv4",
    "flows6": "the same, IPv6",
    "affinity": "clients of Services with `ClientIP`",
    "fragments": "datagrams in pieces",
    "sock_peer": "connected sockets that were translated",
    "sock_nat": "peers of unconnected UDP sockets",
    "sock_udp": "backends that unconnected UDP sockets keep",
}


class Room(NamedTuple):
    """One map: entries that fit; bytes as made, and when full."""

    name: str
    entries: int
    empty: int
    full: int


def measure() -> list[Room]:
    """Every map of the datapath at its default size. DatapathError where the kernel refuses."""
    with BpfObject.named(_OBJECT) as made:
        made.load()
        rooms = []
        for name in made.map_definitions():
            with made.map(name) as table:
                rooms.append(_room(name, table))
    return rooms


def _room(name: str, table: KernelMap) -> Room:
    """Arrays and LRU maps are allocated whole; the others grow with what is written."""
    entries, empty = table.info.max_entries, table.memory()
    if table.info.type not in (MapType.HASH, MapType.LPM_TRIE):
        return Room(name, entries, empty, empty)
    table.write(_keys(table), bytes(table.value_size * _PROBE), _PROBE)
    return Room(name, entries, empty, empty + (table.memory() - empty) * entries // _PROBE)


def _keys(table: KernelMap) -> bytes:
    size, chance = table.info.key_size, random.Random(1)
    if table.info.type == MapType.LPM_TRIE:  # struct bpf_lpm_trie_key_hdr: the length in bits goes first
        length = struct.pack("=I", 8 * (size - 4))
        return b"".join(length + chance.randbytes(size - 4) for _ in range(_PROBE))
    return b"".join(struct.pack("=I", number) + chance.randbytes(size - 4) for number in range(_PROBE))


def table(rooms: list[Room]) -> str:
    """The table of docs/operations.md."""
    shown = [room for room in rooms if room.full >= _SMALLEST]
    lines = [
        f"Kernel {platform.release().split('-')[0]}, {os.cpu_count()} CPUs ({libbpf.cpus()} possible).",
        "",
        "| map | holds | entries | MiB at start | MiB when full | bytes an entry |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{room.name}` | {_HOLDS.get(room.name, '')} | {room.entries:,} | {room.empty / MIB:.1f} |"
        f" {room.full / MIB:.1f} | {room.full // room.entries} |"
        for room in sorted(shown, key=lambda room: -room.full)
    ]
    empty, full = (sum(values) / MIB for values in zip(*(room[2:] for room in rooms), strict=True))
    lines.append(f"| all | | | {empty:.1f} | {full:.1f} | |")
    return "\n".join(lines) + "\n"
