# SPDX-License-Identifier: Apache-2.0
"""``netaccel doctor``: every probe of the kernel, and what is used where one fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from netaccel.commands.output import (
    DEGRADED,
    bpffs_option,
    emit,
    examples,
    http_option,
    output_option,
    print_table,
)
from netaccel.commands.status import ask
from netaccel.config import parse_host_port
from netaccel.datapath.accel import selftest
from netaccel.datapath.probe import Feature, probe
from netaccel.errors import DatapathError


@click.command(
    epilog=examples(
        "netaccel doctor",
        "netaccel doctor --cgroup /sys/fs/cgroup/kubepods.slice",
        "netaccel doctor -o json | jq -r '.[] | select(.ok | not) | .name'",
    )
)
@click.option(
    "--cgroup",
    envvar="NETACCEL_CGROUP",
    type=click.Path(path_type=Path),
    help="cgroup v2 folder that the agent would serve.  [default: the root of the tree]",
)
@bpffs_option
@http_option
@output_option
def doctor(cgroup: Path | None, bpffs: str, http: str, output: str) -> None:
    """Say what this kernel and this machine can do, and what is used instead of what they can't.

    Where an agent runs, its hooks are listed too. Exit status 0: nothing is missing; 3: something is done
    without; 1: netaccel can't run here.
    """
    found = [*probe(Path(bpffs), cgroup), *_acceleration(), *_hooks(http)]
    emit(output, [feature._asdict() for feature in found], lambda: _print(found))
    if any(feature.required and not feature.ok for feature in found):
        raise click.exceptions.Exit(1)
    if not all(feature.ok for feature in found):
        raise click.exceptions.Exit(DEGRADED)


def _acceleration() -> Iterator[Feature]:
    """The self-test that the agent goes by; of its checks those that fail are listed."""
    if os.geteuid() != 0:
        return
    checks = selftest.run()
    found = selftest.verdict(checks)
    detail = f"{sum(check.ok for check in checks)} of {len(checks)} checks hold"
    yield Feature("socket to socket", found.on, detail, "TCP between pods of a node goes packet by packet")
    for check in checks:
        if not check.ok:
            instead = "programs that may do this stay with TCP" if found.on else "no acceleration"
            yield Feature(f"socket to socket: {check.name}", False, check.detail, instead)


def _hooks(http: str) -> Iterator[Feature]:
    """How the hooks of this node's agent fared; nothing where no agent answers."""
    try:
        found = ask(parse_host_port(http))
    except (DatapathError, ValueError) as error:
        yield Feature("agent", ok=False, detail=str(error), instead="netaccel status --http ADDRESS:PORT")
        return
    for hook in found["hooks"] if found else ():
        if hook["hook"] != "cgroup" or hook["mode"] == "failed":
            what, _, instead = hook["note"].rpartition("; ")
            good = hook["mode"] != "failed"
            yield Feature(f"{hook['hook']} on {hook['where']}", good, hook["mode"] if good else what, instead)


def _print(found: list[Feature]) -> None:
    print_table(
        ("FEATURE", "STATE", "DETAIL", "INSTEAD"),
        (
            (
                feature.name,
                "ok" if feature.ok else "REQUIRED" if feature.required else "missing",
                feature.detail or "-",
                "" if feature.ok else feature.instead,
            )
            for feature in found
        ),
    )
