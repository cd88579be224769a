# SPDX-License-Identifier: Apache-2.0
"""Ports of this project's own policy kinds: TCP, UDP and SCTP by number, range or name, ICMP by type."""

from __future__ import annotations

from typing import Literal

from netaccel.errors import ObjectError
from netaccel.model.policy import ICMP, ICMPV6, NamedPort, Port, PortRange
from netaccel.model.service import Protocol
from netaccel.sources.policies.blocks import port_name, port_range, whole
from netaccel.sources.policies.forms import Form

_CODES = 256
_TRANSPORT_ONLY = ("port", "endPort", "name")
_ICMP_ONLY = ("type", "code")


class PortForm(Form):
    """ports[]. A missing protocol is TCP. ICMP: each family's own."""

    protocol: Literal["TCP", "UDP", "SCTP", "ICMP"] | None = None
    port: int | None = None
    end_port: int | None = None
    name: str | None = None
    type: int | None = None
    code: int | None = None


def ports(form: PortForm, path: str) -> tuple[Port, ...]:
    """What one entry means. Raises ObjectError."""
    given = {
        "port": form.port,
        "endPort": form.end_port,
        "name": form.name,
        "type": form.type,
        "code": form.code,
    }
    icmp = form.protocol == "ICMP"
    for name in _TRANSPORT_ONLY if icmp else _ICMP_ONLY:
        if given[name] is not None:
            raise ObjectError(f"{path}.{name}", f"is nothing that {form.protocol or 'TCP'} has: remove it")
    if icmp:
        return _icmp(form, path)
    if form.protocol is None and form.port is None and form.name is None and form.end_port is None:
        raise ObjectError(path, "is empty: give a protocol, a port or a name")
    return (_transport(form, Protocol[form.protocol or "TCP"], path),)


def _icmp(form: PortForm, path: str) -> tuple[Port, ...]:
    """ICMP and ICMPv6: a type is looked for in both, though they number theirs apart."""
    if form.code is not None and form.type is None:
        raise ObjectError(f"{path}.code", "has no type: give type, or remove it")
    for name, value in (("type", form.type), ("code", form.code)):
        if value is not None and not 0 <= value < _CODES:
            raise ObjectError(f"{path}.{name}", f"{value} is out of range: give 0 to {_CODES - 1}")
    if form.type is None:
        return whole(ICMP), whole(ICMPV6)
    first = _CODES * form.type + (form.code or 0)
    last = first if form.code is not None else first + _CODES - 1
    return PortRange(ICMP, first, last), PortRange(ICMPV6, first, last)


def _transport(form: PortForm, protocol: Protocol, path: str) -> Port:
    if form.name is not None:
        if form.port is not None or form.end_port is not None:
            raise ObjectError(f"{path}.name", "stands beside a number: give one of them")
        return NamedPort(port_name(form.name, f"{path}.name"), protocol)
    if form.port is None:
        if form.end_port is not None:
            raise ObjectError(f"{path}.endPort", "has no port: give port, or remove it")
        return whole(protocol)
    return port_range(protocol, form.port, form.end_port, f"{path}.port", last_name=f"{path}.endPort")
