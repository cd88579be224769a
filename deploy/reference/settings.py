# SPDX-License-Identifier: Apache-2.0
"""``docs/configuration.md`` from the settings class; pure but for its imports."""

from __future__ import annotations

from typing import Any

import click
from pydantic.alias_generators import to_camel

from netaccel.commands.agent import agent
from netaccel.config import HostPort, PortRange, Settings

_HEAD = """\
<!-- Made by `python -m deploy.reference` from netaccel/config.py. Change it there. -->
# Configuration

A setting can be given in three places. A flag of `netaccel agent` goes before a variable of the environment,
a variable before the file, the file before the default.

| place | spelling | lists | mappings |
|---|---|---|---|
| file: `--config`, `NETACCEL_CONFIG` | `nodePortAddresses` | YAML | YAML |
| environment | `NETACCEL_NODE_PORT_ADDRESSES` | `a,b` | `NAME=VALUE,NAME=VALUE` |
| flag | `--node-port-addresses` | `a,b` | `NAME=VALUE,NAME=VALUE` |

In a cluster the file is the key `config.yaml` of the ConfigMap `netaccel`. A name that is no setting, or a
value that can't be, is refused at start in one line that says where it stands. Settings are read once: after
a change restart the agents (`kubectl -n netaccel rollout restart daemonset netaccel`), which costs no
connection. `NODE_NAME` and `KUBECONFIG` serve for `nodeName` and `kubeconfig` too.

| setting | value | default | meaning |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    options = {option.name: option for option in agent.params if isinstance(option, click.Option)}
    rows = []
    for name, field in Settings.model_fields.items():
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        cells = (
            f"`{to_camel(name)}`",
            _code(options[name].metavar),
            _default(default),
            field.description or "",
        )
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return _HEAD + "\n".join(rows) + "\n"


def _code(text: str | None) -> str:
    return f"`{text}`" if text else ""


def _default(value: Any) -> str:
    if value is None or value in ((), {}, ""):
        return "–"
    if isinstance(value, (HostPort, PortRange)):
        return f"`{value}`"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    if hasattr(value, "model_dump"):
        return f"`{','.join(f'{k}={v}' for k, v in value.model_dump().items())}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
