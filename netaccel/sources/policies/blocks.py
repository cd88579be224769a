# SPDX-License-Identifier: Apache-2.0
"""A block of addresses with its exceptions, and ports."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from netaccel.errors import ObjectError
from netaccel.model.address import Cidr, cidr_text, is_ipv4
from netaccel.model.policy import CidrPeer, NamedPort, PortRange
from netaccel.model.service import Protocol
from netaccel.sources import checks
from netaccel.sources.policies.forms import kind_of, shown

ALL_PORTS = (0, 65535)
_PORT_NAME_MAX = 15


def block(cidr: str | None, excepts: Sequence[str], path: str, *, name: str = "cidr") -> CidrPeer:
    """A block; each exception has to be a part of it, and not all. Raises ObjectError."""
    if not cidr:
        raise ObjectError(f"{path}.{name}", "is missing: give one such as 10.0.0.0/8 or fd00::/8")
    whole = checks.cidr(cidr, f"{path}.{name}")
    found: dict[Cidr, None] = {}
    for index, text in enumerate(excepts):
        part = checks.cidr(text, f"{path}.except[{index}]")
        if part.length <= whole.length or not _contains(whole, part):
            raise ObjectError(
                f"{path}.except[{index}]",
                f"{cidr_text(part)} is no part of {cidr_text(whole)}: give a smaller block inside of it",
            )
        found[part] = None
    return CidrPeer(whole, tuple(found))


def _contains(whole: Cidr, part: Cidr) -> bool:
    """Whether the longer prefix lies in the shorter one, in the same family."""
    if is_ipv4(whole.addr) != is_ipv4(part.addr):
        return False
    shift = 128 - whole.length
    return int.from_bytes(whole.addr) >> shift == int.from_bytes(part.addr) >> shift


def port_range(protocol: int, first: int, last: int | None, path: str, *, last_name: str) -> PortRange:
    """Ports ``first`` to ``last`` (None: one port), both checked. Raises ObjectError."""
    start = checks.port_number(first, path)
    if last is None:
        return PortRange(protocol, start, start)
    end = checks.port_number(last, last_name)
    if end < start:
        raise ObjectError(last_name, f"{end} is before {start}: give the range the other way round")
    return PortRange(protocol, start, end)


def port_name(text: str, path: str) -> str:
    """A container port's name (IANA_SVC_NAME, RFC 6335)."""
    letters = any("a" <= letter <= "z" for letter in text)
    plain = all(letter in "abcdefghijklmnopqrstuvwxyz0123456789-" for letter in text)
    edges = text.startswith("-") or text.endswith("-") or "--" in text
    if not text or len(text) > _PORT_NAME_MAX or not (letters and plain) or edges:
        raise ObjectError(
            path, f"{shown(text)} is no port's name: use at most 15 of a-z, 0-9 and single -, with a letter"
        )
    return text


def whole(protocol: int) -> PortRange:
    """All ports of a protocol."""
    return PortRange(protocol, *ALL_PORTS)


def port_or_name(value: object, protocol: Protocol, end: int | None, path: str) -> PortRange | NamedPort:
    """Kubernetes' int-or-string ``port`` with its ``endPort``. Raises ObjectError."""
    if value is None:
        if end is not None:
            raise ObjectError(f"{path}.endPort", "has no port: give port, or remove it")
        return whole(protocol)
    if isinstance(value, str):
        if end is not None:
            raise ObjectError(f"{path}.endPort", "stands beside a port's name: give port as a number")
        return NamedPort(port_name(value, f"{path}.port"), protocol)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ObjectError(f"{path}.port", f"is {kind_of(value)}: give a number or a port's name")
    return port_range(protocol, value, end, f"{path}.port", last_name=f"{path}.endPort")


def strict_cidr(text: str, path: str) -> None:
    """Check a CIDR as CEL's isCIDR does, for kinds that began with it. Raises ObjectError.

    No leading zeros, no IPv4 in IPv6, no zone, as Go's net/netip has it.
    """
    host, _, bits = text.partition("/")
    try:
        network = ipaddress.ip_network(text, strict=False)
        if bits != str(network.prefixlen) or "%" in host:
            raise ValueError("not ADDRESS/BITS")
        if isinstance(network, ipaddress.IPv6Network) and ipaddress.IPv6Address(host).ipv4_mapped:
            raise ValueError("IPv4 in IPv6")
    except ValueError as err:
        reason = f"{shown(text)} is not a CIDR: give one such as 10.0.0.0/8 or fd00::/8"
        raise ObjectError(path, reason) from err
