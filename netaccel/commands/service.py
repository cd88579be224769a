# SPDX-License-Identifier: Apache-2.0
"""``netaccel service``: Services as the kernel's maps hold them, with or without an agent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import click

from netaccel.api.views import PortView, ServiceView, Tables, kind_title, port_counts, read_tables, services
from netaccel.commands.output import bpffs_option, emit, examples, output_option, print_table
from netaccel.commands.pinned import pinned_maps
from netaccel.datapath.maps import KernelMaps
from netaccel.errors import DatapathError
from netaccel.records import Frontend


@click.group()
def service() -> None:
    """Services as the kernel's maps hold them: what packets will meet."""


@service.command(
    "list",
    epilog=examples(
        "netaccel service list",
        "netaccel service list -n shop",
        "netaccel service list -o json | jq -r '.[].name'",
    ),
)
@click.option("-n", "--namespace", help="Only Services of this namespace.")
@bpffs_option
@output_option
def list_(namespace: str | None, bpffs: str, output: str) -> None:
    """List every frontend with its backends and counters."""
    with pinned_maps(bpffs) as (maps, abi):
        found = services(read_tables(maps), abi)
    found = [view for view in found if namespace in (None, view["namespace"])]
    emit(output, found, lambda: print_table(_LIST, _list_rows(found), empty="no Services"))


_LIST = ("NAMESPACE", "NAME", "KIND", "ADDRESS", "BACKENDS", "CONNECTS", "PACKETS", "BYTES", "REFUSED")


def _list_rows(found: Sequence[ServiceView]) -> Iterator[tuple[object, ...]]:
    """A row each frontend; counters are the service port's, so they stand in its first row alone."""
    for view in found:
        for port in view["ports"]:
            counts: tuple[object, ...] = port_counts(port)
            for frontend in port["frontends"]:
                yield (
                    view["namespace"],
                    view["name"],
                    ", ".join((kind_title(frontend["kind"]), *_modes(frontend["flags"]))),
                    _at(frontend["address"], frontend["port"], port["protocol"]),
                    _usable(port),
                    *counts,
                )
                counts = ("", "", "", "")


def _modes(flags: Sequence[str]) -> Iterator[str]:
    """What keeps new flows from a frontend (docs/decisions/0012-taking-over.md)."""
    names = {"drain": "draining", "takeover": "taking over"}
    return (names[flag] for flag in flags if flag in names)


def _usable(port: PortView) -> str:
    active = sum(backend["state"] == "active" for backend in port["backends"])
    return f"{active}/{len(port['backends'])}"


def _at(address: str, port: int, protocol: str) -> str:
    return f"[{address}]:{port}/{protocol}" if ":" in address else f"{address}:{port}/{protocol}"


@service.command(epilog=examples("netaccel service show shop/web", "netaccel service show web -o json"))
@click.argument("name", metavar="[NAMESPACE/]NAME")
@bpffs_option
@output_option
def show(name: str, bpffs: str, output: str) -> None:
    """Show one Service: each frontend, each backend and its share of new connections."""
    namespace, _, plain = name.rpartition("/")
    wanted = (namespace or "default", plain)
    with pinned_maps(bpffs) as (maps, abi):
        tables = read_tables(maps)
        view = next((v for v in services(tables, abi) if (v["namespace"], v["name"]) == wanted), None)
        if view is None:
            raise DatapathError(
                f"no Service {'/'.join(wanted)} in the maps: `netaccel service list` shows all"
            )
        shares = {port["id"]: _shares(maps, tables, port) for port in view["ports"]}
    value = {
        **view,
        "ports": [{**port, "shares": shares[port["id"]]} for port in view["ports"]],
    }
    emit(output, value, lambda: _print(view, shares))


Shares = dict[str, dict[int, float]]
"""By "wire" and "pod": what part of new connections goes to each backend id."""


def _shares(maps: KernelMaps, tables: Tables, port: PortView) -> Shares:
    """Read from Maglev's tables of the port's frontends; where they differ, of the longest."""
    ranges: dict[str, tuple[int, int]] = {"wire": (0, 0), "pod": (0, 0)}
    for frontend in tables.frontends.values():
        if frontend.service == port["id"]:
            for side, (offset, length) in _ranges(frontend).items():
                if length > ranges[side][1]:
                    ranges[side] = (offset, length)
    found: Shares = {}
    for side, (offset, length) in ranges.items():
        slots = [maps.get("maglev", offset + i) for i in range(length)]
        found[side] = {id_: round(slots.count(id_) / length, 4) for id_ in sorted(set(slots))}
    return found


def _ranges(frontend: Frontend) -> dict[str, tuple[int, int]]:
    return {
        "wire": (frontend.wire_offset, frontend.wire_length),
        "pod": (frontend.pod_offset, frontend.pod_length),
    }


def _print(view: ServiceView, shares: dict[int, Shares]) -> None:
    for port in view["ports"]:
        name = f" ({port['name']})" if port["name"] else ""
        title = f"{view['namespace']}/{view['name']} {port['port']}/{port['protocol']} {port['family']}{name}"
        click.secho(title, bold=True)
        connects, packets, octets, refused = port_counts(port)
        click.echo(f"{connects} connects, {packets} packets, {octets} bytes, {refused} refused\n")
        print_table(
            ("FRONTEND", "KIND", "FLAGS"),
            (
                (
                    _at(frontend["address"], frontend["port"], port["protocol"]),
                    kind_title(frontend["kind"]),
                    "\n".join(frontend["flags"]) or "-",
                )
                for frontend in port["frontends"]
            ),
        )
        click.echo()
        sides = shares[port["id"]]
        print_table(
            ("BACKEND", "STATE", "LOCAL", "FROM THE WIRE", "FROM THIS NODE"),
            (
                (
                    _at(backend["address"], backend["port"], port["protocol"]),
                    backend["state"],
                    "yes" if backend["local"] else "no",
                    f"{sides['wire'].get(backend['id'], 0):.1%}",
                    f"{sides['pod'].get(backend['id'], 0):.1%}",
                )
                for backend in port["backends"]
            ),
            empty="no backends",
        )
        click.echo()
