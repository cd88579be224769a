# SPDX-License-Identifier: Apache-2.0
"""``netaccel flows``: who talks to whom, with verdict and rule, as the agent tells it."""

from __future__ import annotations

import click

from netaccel.commands.flowfilters import filter_options, parameters, print_lines
from netaccel.commands.output import examples, http_option


@click.command(
    epilog=examples(
        "netaccel flows",
        "netaccel flows --follow --verdict audited",
        "netaccel flows --since 5m --to service:shop/db --verdict dropped",
        "netaccel flows -n shop --rule 'NetworkPolicy shop/allow-web ingress[0]'",
        "netaccel flows --last 1000 -o json | jq -r .source.name",
    )
)
@filter_options
@click.option("--since", metavar="AGE|DATE", help="Not older than 30s, 5m, 2h, 1d, or a date.")
@click.option(
    "--last", type=click.IntRange(min=0), metavar="N", help="The newest N. [default: 20; 0 with --follow]"
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("-o", "--output", type=click.Choice(["line", "json"]), default="line", show_default=True)
@http_option
def flows(
    since: str | None, last: int | None, follow: bool, output: str, http: str, **filters: tuple[str, ...]
) -> None:
    """Say who talks to whom: each new flow's verdict with its rule, each drop, what flows carried.

    Values of one filter are alternatives, different filters hold together.
    """
    asked = parameters(filters, {"since": since, "last": last, "follow": "1" if follow else None})
    print_lines(http, "/api/v1/flows", asked, as_json=output == "json")
