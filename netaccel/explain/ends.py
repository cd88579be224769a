# SPDX-License-Identifier: Apache-2.0
"""The two ends of a question as people write them.

::

    pod:NS/NAME  service:NS/NAME  node:NAME  ip:ADDR  world      each with [:PORT[/PROTO]] as a destination

IPv6 addresses that a port follows stand in brackets. A namespace that is left out is ``default``.
"""

from __future__ import annotations

import enum
import re
from typing import NamedTuple

from netaccel.errors import QuestionError
from netaccel.model.address import Address, endpoint_text, parse_address, text

DEFAULT_NAMESPACE = "default"
PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "ICMPV6": 58, "SCTP": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()} | {58: "ICMPv6"}
_TAIL = re.compile(r"^(?P<head>.*?)(?::(?P<port>[^:/\]]+)(?:/(?P<protocol>[^:/\]]+))?)?$")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class EndKind(enum.Enum):
    """What an end is."""

    POD = "pod"
    SERVICE = "service"
    NODE = "node"
    IP = "ip"
    WORLD = "world"


class End(NamedTuple):
    """One end. ``port``: a number, or the name of a Service's port; None where it isn't given.

    ``protocol``: number of the IP protocol, None where it isn't given.
    """

    kind: EndKind
    namespace: str = ""
    name: str = ""
    address: Address | None = None
    port: int | str | None = None
    protocol: int | None = None

    def __str__(self) -> str:
        tail = ""
        if self.port is not None:
            tail = f":{self.port}"
            if self.protocol is not None:
                tail += f"/{protocol_name(self.protocol)}"
        if self.address is not None:
            if isinstance(self.port, int):
                return f"ip:{endpoint_text(self.address, self.port)}{tail.removeprefix(f':{self.port}')}"
            return f"ip:{text(self.address)}"
        if self.kind is EndKind.WORLD:
            return f"world{tail}"
        name = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind.value}:{name}{tail}"


def parse_end(written: str) -> End:
    """Read an end. Raises QuestionError: what is wrong with it and what is meant."""
    word, colon, rest = written.partition(":")
    if word == EndKind.WORLD.value:
        _, port, protocol = _split(f"{colon}{rest}", written)
        return End(EndKind.WORLD, port=port, protocol=protocol)
    try:
        kind = EndKind(word)
    except ValueError:
        raise QuestionError(
            f"{written!r}: give pod:NS/NAME, service:NS/NAME, node:NAME, ip:ADDR or world"
        ) from None
    if kind is EndKind.IP:
        return _parse_ip(rest, written)
    head, port, protocol = _split(rest, written)
    if kind is EndKind.NODE:
        return End(kind, "", _name(head, written), port=port, protocol=protocol)
    namespace, _, name = head.rpartition("/")
    return End(
        kind,
        _name(namespace, written) if namespace else DEFAULT_NAMESPACE,
        _name(name, written),
        port=port,
        protocol=protocol,
    )


def _parse_ip(rest: str, written: str) -> End:
    if rest.startswith("["):
        inside, bracket, after = rest[1:].partition("]")
        if not bracket:
            raise QuestionError(f"{written!r}: the bracket is not closed: give ip:[{inside}]:PORT")
        head, port, protocol = _split(after, written)
        if head:
            raise QuestionError(f"{written!r}: {head!r} after the bracket: give ip:[{inside}]:PORT")
    elif rest.count(":") > 1:
        inside, port, protocol = rest, None, None
    else:
        inside, port, protocol = _split(rest, written)
    try:
        return End(EndKind.IP, address=parse_address(inside), port=port, protocol=protocol)
    except ValueError as error:
        raise QuestionError(f"{written!r}: {error}; IPv6 with a port: ip:[ADDR]:PORT") from error


def _split(rest: str, written: str) -> tuple[str, int | str | None, int | None]:
    """What stands before the port, the port, the protocol."""
    found = _TAIL.match(rest)
    if found is None:
        raise QuestionError(f"{written!r}: can't be read: give NAME:PORT/PROTOCOL")
    port, protocol = found["port"], found["protocol"]
    return (
        found["head"],
        None if port is None else parse_port(port, written),
        None if protocol is None else parse_protocol(protocol, written),
    )


def parse_port(port: str | int, written: str = "") -> int | str:
    """A number from 1 to 65535, or the name of a Service's port. Raises QuestionError."""
    number = int(port) if isinstance(port, int) or port.isdecimal() else None
    if number is None:
        return str(port)
    if not 1 <= number <= 65535:
        raise QuestionError(f"{written or port!r}: port {number}: give one from 1 to 65535")
    return number


def parse_protocol(name: str | int, written: str = "") -> int:
    """The number of a protocol, given by name or number. Raises QuestionError."""
    if isinstance(name, int) or name.isdecimal():
        number = int(name)
        if 0 <= number <= 255:
            return number
    elif (known := PROTOCOLS.get(name.upper())) is not None:
        return known
    names = ", ".join(sorted(PROTOCOLS))
    raise QuestionError(f"{written or name!r}: protocol {name}: give {names}, or a number up to 255")


def protocol_name(number: int) -> str:
    """``TCP``, or the number of a protocol without ports."""
    return _NAMES.get(number, str(number))


def _name(name: str, written: str) -> str:
    if not _NAME.fullmatch(name):
        raise QuestionError(f"{written!r}: {name!r} is no name: give KIND:NAMESPACE/NAME, as pod:shop/web-0")
    return name
