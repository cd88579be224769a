# SPDX-License-Identifier: Apache-2.0
"""``netaccel policy``: what policies select, what they decided, and what others would."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import click

from netaccel.commands.asking import agent_at, answer
from netaccel.commands.output import emit, examples, http_option, output_option, print_table
from netaccel.commands.preview import preview
from netaccel.errors import ConfigError, DatapathError
from netaccel.explain.manifests import read_world
from netaccel.explain.policies import NO_RULES, Facts, PolicyView, policy_views
from netaccel.explain.preview import stamp
from netaccel.model.policy import Kind

_LIST = (
    "KIND",
    "POLICY",
    "MODE",
    "STATE",
    "PODS",
    "RULES",
    "ALLOWED",
    "DROPPED",
    "AUDITED",
    "SINCE",
)
_SHORT = {
    "np": Kind.NETWORK,
    "netpol": Kind.NETWORK,
    "cnp": Kind.CLUSTER_NETWORK,
    "tp": Kind.TRAFFIC,
    "ctp": Kind.CLUSTER_TRAFFIC,
}
_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))
_BY_NAME = {**{kind.value.lower(): kind for kind in Kind}, **_SHORT}


@click.group()
def policy() -> None:
    """Policies: what they select, what they decided, what others would have."""


policy.add_command(preview)

manifests_option = click.option(
    "--manifests",
    type=click.Path(path_type=Path),
    help="Ask about the cluster that these files describe; no agent needed, and nothing is counted.",
)


@policy.command(
    "list",
    epilog=examples(
        "netaccel policy list",
        "netaccel policy list -n shop",
        "netaccel policy list --manifests DIR",
        "netaccel policy list -o json | jq '.[] | select(.state != \"in force\")'",
    ),
)
@click.option("-n", "--namespace", help="Only policies of this namespace.")
@manifests_option
@http_option
@output_option
def list_(namespace: str | None, manifests: Path | None, http: str, output: str) -> None:
    """List policies: whether they are in force here, whom they select, what they decided.

    PODS: selected on this node / of all known. ALLOWED, DROPPED: packets that opened flows, and dropped ones,
    since the maps were made. AUDITED: what only monitor mode let pass; SINCE: how long ago a policy first
    denied, or in monitor mode would have, of what is on record. What is to be said of a policy follows the
    table.
    """
    found = [view for view in views(manifests, http) if namespace in (None, view["namespace"])]
    emit(output, found, lambda: _print_list(found))


@policy.command(
    epilog=examples(
        "netaccel policy show trafficpolicy shop/web",
        "netaccel policy show netpol default-deny -o json",
        "netaccel policy show ctp no-metadata --manifests DIR",
    )
)
@click.argument("kind")
@click.argument("name", metavar="[NAMESPACE/]NAME")
@manifests_option
@http_option
@output_option
def show(kind: str, name: str, manifests: Path | None, http: str, output: str) -> None:
    """Show one policy: each rule, what it decided, and what is odd about it.

    KIND: networkpolicy (netpol), clusternetworkpolicy (cnp), trafficpolicy (tp), clustertrafficpolicy (ctp).
    """
    wanted = _BY_NAME.get(kind.lower())
    if wanted is None:
        raise click.UsageError(f"no kind {kind!r}: give one of {', '.join(_BY_NAME)}")
    namespace, _, plain = name.rpartition("/")
    if wanted in (Kind.NETWORK, Kind.TRAFFIC):
        namespace = namespace or "default"
    key = (wanted.value, namespace, plain)
    found = {(view["kind"], view["namespace"], view["name"]): view for view in views(manifests, http)}
    if key not in found:
        raise ConfigError(f"no {wanted.value} {name}: `netaccel policy list` shows all")
    emit(output, found[key], lambda: _print(found[key]))


def views(manifests: Path | None, http: str) -> list[PolicyView]:
    """From files, or from the agent. ConfigError or DatapathError where there is no answer."""
    if manifests is not None:
        offline = read_world(manifests)
        for reject in offline.refused:
            click.echo(f"{reject.origin}: {reject.path}: {reject.reason}", err=True)
        return policy_views(offline.world, Facts(""))
    listen = agent_at(http)
    with answer(listen, "/api/v1/policies", ()) as found:
        try:
            return cast("list[PolicyView]", json.loads(found.read()))
        except ValueError as error:
            raise DatapathError(f"http://{listen}/api/v1/policies: no list of policies: {error}") from error


def _print_list(found: Sequence[PolicyView]) -> None:
    """The table has numbers and words; sentences follow, so that it fits a terminal."""
    print_table(_LIST, _rows(found), empty="no policies")
    remarks = [
        f"{view['kind']} {_name(view)}: {kind}: {text}"
        for view in found
        for kind, texts in ((view["state"], view["reasons"]), ("warning", view["warnings"]))
        for text in texts
    ]
    if remarks:
        click.echo("\n" + "\n".join(remarks))


def _rows(found: Sequence[PolicyView]) -> Iterator[tuple[object, ...]]:
    for view in found:
        counts = view["counts"]
        yield (
            view["kind"],
            _name(view),
            view["mode"],
            view["state"],
            f"{view['pods']['here']}/{view['pods']['known']}",
            sum(rule["action"] not in NO_RULES for rule in view["rules"]),
            counts["allowed"],
            counts["dropped"],
            counts["audited"],
            _ago(view["first"]),
        )


def _name(view: PolicyView) -> str:
    return f"{view['namespace']}/{view['name']}" if view["namespace"] else view["name"]


def _ago(seconds: float | None) -> str:
    """``3d``, as kubectl tells ages."""
    if seconds is None:
        return "-"
    age = max(0, int(time.time() - seconds))
    unit, letter = next(((unit, letter) for unit, letter in _UNITS if age >= 2 * unit), (1, "s"))
    return f"{age // unit}{letter}"


def _when(seconds: float | None) -> str:
    return "-" if seconds is None else stamp(seconds)


def _print(view: PolicyView) -> None:
    click.secho(f"{view['kind']} {_name(view)}: {view['state']}", bold=True)
    for reason in view["reasons"]:
        click.echo(f"  reason: {reason}")
    tier = view["tier"] if view["priority"] is None else f"{view['tier']}, priority {view['priority']}"
    generation = f", generation {view['generation']}" if view["generation"] else ""
    click.echo(f"  mode {view['mode']}, tier {tier}{generation}")
    pods = view["pods"]
    click.echo(f"  selects {pods['here']} pods here, {pods['known']} on {pods['nodes']} nodes")
    if view["isolates"]:
        click.echo(f"  isolates: {', '.join(view['isolates'])}")
    if view["first"] is not None:
        did = "would have denied" if view["mode"] == "Monitor" else "denied"
        click.echo(f"  {did} flows from {_when(view['first'])} to {_when(view['last'])}, as far as recorded")
    for warning in view["warnings"]:
        click.echo(f"  warning: {warning}")
    click.echo()
    print_table(
        ("RULE", "NAME", "ACTION", "PACKETS", "BYTES"),
        (
            (rule["place"], rule["name"] or "-", rule["action"], rule["packets"], rule["bytes"])
            for rule in view["rules"]
        ),
        empty="no rules",
    )
