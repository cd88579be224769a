# SPDX-License-Identifier: Apache-2.0
"""``netaccel agent``: every setting as a flag, then the agent itself."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click

from netaccel.commands.output import examples
from netaccel.commands.pinned import require_root
from netaccel.config import FILE, Settings, load

_SPELLING = {
    "kubeconfig": "PATH[:PATH…]",
    "api_servers": "ADDRESS:PORT,…",
    "kube_proxy": "beside|instead",
    "service_proxy_name": "VALUE",
    "drain": "true|false",
    "healthz": "ADDRESS:PORT|off",
    "snat_ports": "FIRST-LAST",
    "node_port_range": "FIRST-LAST",
    "http": "ADDRESS:PORT",
    "metrics": "ADDRESS:PORT|off",
    "map_sizes": "MAP=ENTRIES,…",
    "timeouts": "STATE=SECONDS,…",
    "uplinks": "DEVICE,…",
    "pod_devices": "PATTERN,…|off",
    "node_port_addresses": "CIDR,…",
    "xdp": "auto|off",
    "policy": "on|off",
    "strict": "true|false",
    "peer": "auto|off",
    "accelerate": "auto|enabled|disabled",
    "node_name": "NAME",
}
_ALIASES = {"uplinks": "--uplink", "map_sizes": "--map-size", "timeouts": "--timeout"}


def _options(command: click.Command) -> click.Command:
    """One option a setting, straight from config.Settings: text in, checked there."""
    for name, field in Settings.model_fields.items():
        flags = [f"--{name.replace('_', '-')}", *([_ALIASES[name]] if name in _ALIASES else [])]
        default = field.get_default(call_default_factory=True) if not field.is_required() else None
        told = f" [default: {_shown(default)}]" if default not in (None, (), {}) else ""
        command.params.append(
            click.Option(
                [*flags, name],
                metavar=_SPELLING.get(name, "PATH" if "Path" in str(field.annotation) else "NUMBER"),
                multiple=name in ("uplinks", "map_sizes", "timeouts"),
                help=f"{_sentence(field.description or '')}{told}",
            )
        )
    return command


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _shown(default: object) -> str:
    if isinstance(default, tuple) and not hasattr(default, "_fields"):
        return ",".join(default)
    return str(default).replace(" ", ",")


@click.command(
    epilog=examples(
        "netaccel agent --manifests /etc/netaccel/manifests --node-name rack-1",
        "netaccel agent --manifests DIR --uplink eth0 --uplink eth1 --xdp off",
        "netaccel agent --config /etc/netaccel/netaccel.yaml --metrics 10.0.0.5:9963",
        "NETACCEL_MANIFESTS=DIR netaccel agent",
    )
)
@click.option("--config", type=click.Path(path_type=Path), envvar=FILE, help="YAML file of settings.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning"]),
    default="info",
    show_default=True,
    help="What goes to standard error.",
)
def agent(config: Path | None, log_level: str, **flags: object) -> None:
    """Serve this node until told to stop; the datapath stays when the agent goes.

    Each setting is also a variable (NETACCEL_UPLINKS) and a key of the file (uplinks); a flag wins over a
    variable, a variable over the file.
    """
    given = {name: ",".join(v) if isinstance(v, tuple) else v for name, v in flags.items() if v}
    settings = load(given, file=config)
    require_root()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("netaccel").setLevel(log_level.upper())
    from netaccel.agent.start import run

    run(settings)


_options(agent)
