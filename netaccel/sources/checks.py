# SPDX-License-Identifier: Apache-2.0
"""Checks of single fields. Each takes the field's path and raises ObjectError with the remedy."""

from __future__ import annotations

import datetime
import enum
import math
import re
from collections.abc import Iterable, Mapping
from sys import intern
from typing import TypeVar

from netaccel.errors import ObjectError
from netaccel.model.address import Address, Cidr, is_ipv4, parse_address, parse_cidr
from netaccel.model.service import Protocol
from netaccel.sources import raw

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SUBDOMAIN_MAX = 253

_PROTOCOLS: Mapping[str | None, Protocol] = {
    None: Protocol.TCP,
    "": Protocol.TCP,
    **{protocol.name: protocol for protocol in Protocol},
}

_E = TypeVar("_E", bound=enum.Enum)


def dns_label(text: str | None, path: str) -> str:
    """Check a DNS label (RFC 1123): names of Services, namespaces and ports."""
    if not text:
        raise ObjectError(path, "is missing: give a name")
    if not _LABEL.fullmatch(text):
        raise ObjectError(
            path, f"{text!r} is not a DNS label: use at most 63 of a-z, 0-9 and -, no - at either end"
        )
    return text


def dns_subdomain(text: str | None, path: str) -> str:
    """Check a DNS subdomain (RFC 1123): names of all other objects."""
    if not text:
        raise ObjectError(path, "is missing: give a name")
    if len(text) > _SUBDOMAIN_MAX or not _SUBDOMAIN.fullmatch(text):
        raise ObjectError(
            path, f"{text!r} is not a DNS name: use at most 253 of a-z, 0-9, - and ., no - or . at either end"
        )
    return text


def port_number(number: int | None, path: str) -> int:
    """Check a port that must be there."""
    if number is None:
        raise ObjectError(path, "is missing: give a port from 1 to 65535")
    if not 1 <= number <= 65535:
        raise ObjectError(path, f"{number} is out of range: give a port from 1 to 65535")
    return number


def optional_port(number: int | None, path: str) -> int:
    """Check a port that may be absent; 0 then."""
    return port_number(number, path) if number else 0


def protocol(name: str | None, path: str) -> Protocol:
    """Read a protocol's name; TCP where absent."""
    found = _PROTOCOLS.get(name)
    if found is None:
        raise ObjectError(path, f"{name!r} is no protocol: give TCP, UDP or SCTP")
    return found


def choice(text: str | None, values: type[_E], default: _E, path: str) -> _E:
    """Read a member of an enum by its value; ``default`` where absent or empty."""
    if not text:
        return default
    try:
        return values(text)
    except ValueError:
        names = " or ".join(str(value.value) for value in values)
        raise ObjectError(path, f"{text!r} is not a value of it: give {names}") from None


def address(text: str | None, path: str) -> Address:
    """Read an address of either family."""
    if not text:
        raise ObjectError(path, "is missing: give an IPv4 or IPv6 address")
    try:
        return parse_address(text)
    except ValueError as err:
        raise ObjectError(
            path, f"{_shown(text)} is not an address: give one such as 10.0.0.1 or fd00::1"
        ) from err


def is_special(addr: bytes) -> bool:
    """Whether no other machine can be meant: unspecified, loopback, link-local (unicast or multicast).

    The ranges that the API refuses for endpoints and external IPs (ValidateNonSpecialIP).
    """
    if is_ipv4(addr):
        first = addr[12]
        if first == 127 or addr[12:14] == b"\xa9\xfe":
            return True
        return addr[12:] == b"\0\0\0\0" or addr[12:15] == b"\xe0\0\0"
    if addr[0] == 0xFE:
        return addr[1] & 0xC0 == 0x80
    if addr[0] == 0xFF:
        return addr[1] & 0x0F == 0x02
    return addr[:15] == b"\0" * 15 and addr[15] <= 1


def unicast(text: str | None, path: str) -> Address:
    """Read an address at which a Service or an endpoint can be reached."""
    found = address(text, path)
    if is_special(found):
        raise ObjectError(
            path, f"{text} is unspecified, loopback or link-local: give an address that other nodes can reach"
        )
    return found


def cidr(text: str, path: str) -> Cidr:
    """Read a CIDR; host bits are masked and spaces around it ignored, as the API does."""
    try:
        return parse_cidr(text)
    except ValueError as err:
        raise ObjectError(
            path, f"{_shown(text)} is not a CIDR: give one such as 10.0.0.0/8 or fd00::/8"
        ) from err


def cidrs(texts: Iterable[str] | None, path: str) -> tuple[Cidr, ...]:
    """Read CIDRs in order, each once."""
    found = (cidr(text, f"{path}[{index}]") for index, text in enumerate(texts or ()))
    return tuple(dict.fromkeys(found))


def labels(pairs: raw.Labels | None) -> tuple[tuple[str, str], ...]:
    """Sorted pairs; a null value is the empty one, as in the API. Thousands of pods share their texts."""
    if not pairs:
        return ()
    return tuple(sorted((intern(key), intern(value or "")) for key, value in pairs.items()))


def annotation(meta: raw.Metadata, name: str) -> str:
    """The annotation's value without spaces around it; "" where there is none."""
    found = (meta.annotations or {}).get(name)
    return intern(found.strip()) if found else ""


def timestamp(text: str | None, path: str) -> float:
    """Read RFC 3339 as seconds since the epoch; infinity where absent, so that a dated object is older."""
    if not text:
        return math.inf
    try:
        when = datetime.datetime.fromisoformat(text)
        if when.tzinfo is None:
            raise ValueError("no offset from UTC")
        return when.timestamp()
    except (ValueError, OverflowError) as err:
        raise ObjectError(
            path, f"{_shown(text)} is not a time: give RFC 3339, such as 2026-01-31T12:00:00Z"
        ) from err


def _shown(text: str) -> str:
    """The text quoted, and cut where it is long."""
    return repr(text if len(text) <= 64 else text[:61] + "...")
