# SPDX-License-Identifier: Apache-2.0
"""The filters that ``flows`` and ``drops`` share, and how both print what the agent sends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import click

from netaccel.commands.asking import Parameters, agent_at, answer
from netaccel.errors import DatapathError
from netaccel.observe.flows.line import line
from netaccel.observe.flows.record import from_json

_F = TypeVar("_F", bound=Callable[..., Any])

_FILTERS = (
    ("--pod", "pod", "[NAMESPACE/]NAME", "A pod at either end (namespace: default); * and ? match."),
    ("--namespace", "namespace", "NAME", "A pod of this namespace at either end."),
    ("--label", "label", "SELECTOR", "A pod with these labels at either end, as app=web,tier!=db."),
    ("--service", "service", "[NAMESPACE/]NAME", "To this Service, or to one of its endpoints."),
    ("--node", "node", "NAME", "A node, or a pod of it, at either end."),
    ("--ip", "ip", "ADDRESS[/BITS]", "An address, or one of a CIDR, at either end."),
    ("--port", "port", "PORT[-PORT]", "A port of either end."),
    ("--from", "from", "WHO", "The source: pod:NS/NAME, namespace:NAME, label:…, node:NAME, ip:…, world."),
    ("--to", "to", "WHO", "The destination: as --from, or service:NS/NAME."),
    ("--protocol", "protocol", "NAME", "tcp, udp, sctp, icmp, icmpv6 or a number."),
    ("--verdict", "verdict", "NAME", "forwarded, dropped, audited, redirected or translated."),
    ("--reason", "reason", "NAME", "Why it was dropped, as policy_denied; * and ? match."),
    ("--rule", "rule", "RULE", "The rule that decided: [KIND] [NAMESPACE/]NAME [ingress[0]], or its name."),
    ("--path", "path", "NAME", "How it travelled: socket, xdp, tc, peer, stack."),
    ("--direction", "direction", "NAME", "ingress or egress, as the pod sees it."),
    ("--type", "type", "NAME", "new, closed, drop, kernel_drop or summary."),
)
_SHORT = {"--namespace": ("-n",), "--label": ("-l",)}


def filter_options(command: _F) -> _F:
    """Add every filter; each may be given several times and arrives in ``filters``, by name."""
    for flag, name, metavar, help_ in reversed(_FILTERS):
        command = click.option(
            *_SHORT.get(flag, ()), flag, f"filter_{name}", multiple=True, metavar=metavar, help=help_
        )(command)
    return command


def parameters(given: Mapping[str, Sequence[str]], others: Mapping[str, object]) -> Parameters:
    """What to ask with: filters (``filter_pod``) and other parameters, those without a value left out."""
    filters = [(name.removeprefix("filter_"), value) for name, values in given.items() for value in values]
    return [*filters, *((name, str(value)) for name, value in others.items() if value not in (None, False))]


def print_lines(http: str, path: str, asked: Parameters, *, as_json: bool) -> None:
    """Print what comes until it ends, or nobody reads."""
    follow = ("follow", "1") in asked
    try:
        with answer(agent_at(http), path, asked, endless=follow) as lines:
            _print(lines, as_json)
        if follow:
            raise DatapathError("the agent ended the stream: it was stopped, or is restarting")
    except BrokenPipeError:
        # As Python's documentation of SIGPIPE advises, so that nothing complains at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise click.exceptions.Exit(0) from None


def _print(lines: Iterable[bytes], as_json: bool) -> None:
    for raw in lines:
        if as_json:
            sys.stdout.write(raw.decode())
        else:
            try:
                shown = line(from_json(raw))
            except ValueError as error:
                raise DatapathError(f"the agent's answer is {error}: is it of another version?") from error
            sys.stdout.write(f"{shown}\n")
        sys.stdout.flush()
