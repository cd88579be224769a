# SPDX-License-Identifier: Apache-2.0
"""Addresses: 16 octets, network byte order, IPv4 mapped (RFC 4291 §2.5.5.2)."""

from __future__ import annotations

import socket
from typing import NamedTuple, NewType

Address = NewType("Address", bytes)

IPV4_PREFIX = b"\0" * 10 + b"\xff\xff"
UNSPECIFIED4 = Address(IPV4_PREFIX + b"\0" * 4)
UNSPECIFIED6 = Address(b"\0" * 16)


class Cidr(NamedTuple):
    """A prefix of the 16-byte form, host bits zero; ``length`` counts all 128 bits (IPv4 /n is 96 + n)."""

    addr: Address
    length: int


def parse_address(text: str) -> Address:
    """Read an IPv4 or IPv6 address as the Kubernetes API accepts it (leading zeros in IPv4 are decimal).

    Raises ValueError naming the text.
    """
    try:
        if ":" in text:
            return Address(socket.inet_pton(socket.AF_INET6, text))
        return Address(IPV4_PREFIX + socket.inet_pton(socket.AF_INET, text))
    except OSError:
        pass
    parts = text.split(".")
    if len(parts) == 4 and all(p.isascii() and p.isdigit() and int(p) < 256 for p in parts):
        return Address(IPV4_PREFIX + bytes(int(p) for p in parts))
    raise ValueError(f"{text!r} is not an IPv4 or IPv6 address")


def parse_cidr(text: str) -> Cidr:
    """Read a CIDR; host bits are masked. Raises ValueError naming the text."""
    host, slash, bits = text.strip().partition("/")
    addr = parse_address(host)
    width = 128 if ":" in host else 32
    if not slash or not bits.isascii() or not bits.isdigit() or int(bits) > width:
        raise ValueError(f"{text!r} is not a CIDR: give ADDRESS/BITS with BITS from 0 to {width}")
    length = int(bits) + 128 - width
    mask = ((1 << length) - 1) << (128 - length)
    return Cidr(Address((int.from_bytes(addr) & mask).to_bytes(16)), length)


def is_ipv4(addr: bytes) -> bool:
    """Whether the address is IPv4 mapped."""
    return addr.startswith(IPV4_PREFIX)


def family(addr: bytes) -> socket.AddressFamily:
    """AF_INET or AF_INET6."""
    return socket.AF_INET if is_ipv4(addr) else socket.AF_INET6


def text(addr: bytes) -> str:
    """The usual text form."""
    if is_ipv4(addr):
        return socket.inet_ntop(socket.AF_INET, addr[12:])
    return socket.inet_ntop(socket.AF_INET6, addr)


def endpoint_text(addr: bytes, port: int) -> str:
    """``10.0.0.1:80`` or ``[fd00::1]:80``."""
    return f"{text(addr)}:{port}" if is_ipv4(addr) else f"[{text(addr)}]:{port}"


def cidr_text(cidr: Cidr) -> str:
    """``10.0.0.0/8`` or ``fd00::/8``."""
    return f"{text(cidr.addr)}/{cidr.length - 96 if is_ipv4(cidr.addr) else cidr.length}"
