# SPDX-License-Identifier: Apache-2.0
"""The prefixes that policies name, and the longest of them that has an address: its leaf.

All prefixes share the 16-byte form, where ``::/0`` has IPv4 in it too. So a prefix of IPv6 that covers the
mapped addresses brings ``0.0.0.0/0`` along, which keeps IPv4 addresses from falling into it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from netaccel.model.address import IPV4_PREFIX, Address, Cidr

IPV4_BITS = 96
IPV4 = Cidr(Address(IPV4_PREFIX + bytes(4)), IPV4_BITS)
"""``0.0.0.0/0``."""
_ALL = 128


def is_family4(cidr: Cidr) -> bool:
    """Whether a prefix is one of IPv4."""
    return cidr.length >= IPV4_BITS and cidr.addr.startswith(IPV4_PREFIX)


def contains(outer: Cidr, inner: Cidr) -> bool:
    """Whether a prefix has all of another of the same family; of the other family: none."""
    if outer.length > inner.length or is_family4(outer) != is_family4(inner):
        return False
    shift = _ALL - outer.length
    return int.from_bytes(outer.addr) >> shift == int.from_bytes(inner.addr) >> shift


class Prefixes:
    """Named prefixes, each as often as it is named."""

    def __init__(self) -> None:
        self._counts: dict[Cidr, int] = {}
        self._by_length: dict[int, dict[int, Cidr]] = {}
        self._lengths: list[int] = []  # longest first
        self._sorted: list[Cidr] = []

    def add(self, cidr: Cidr) -> list[Cidr]:
        """Name a prefix once more; those that were not named before."""
        new = self.add(IPV4) if _covers_ipv4(cidr) else []
        count = self._counts.get(cidr, 0)
        self._counts[cidr] = count + 1
        if count:
            return new
        if cidr.length not in self._by_length:
            self._by_length[cidr.length] = {}
            self._lengths = sorted(self._by_length, reverse=True)
        self._by_length[cidr.length][int.from_bytes(cidr.addr) >> (_ALL - cidr.length)] = cidr
        insort(self._sorted, cidr)
        return [*new, cidr]

    def remove(self, cidr: Cidr) -> list[Cidr]:
        """Undo one :meth:`add`; those that are not named any more."""
        gone = self.remove(IPV4) if _covers_ipv4(cidr) else []
        self._counts[cidr] -= 1
        if self._counts[cidr]:
            return gone
        del self._counts[cidr]
        group = self._by_length[cidr.length]
        del group[int.from_bytes(cidr.addr) >> (_ALL - cidr.length)]
        if not group:
            del self._by_length[cidr.length]
            self._lengths.remove(cidr.length)
        del self._sorted[bisect_left(self._sorted, cidr)]
        return [*gone, cidr]

    def leaf(self, addr: bytes) -> Cidr | None:
        """The longest named prefix that has this address."""
        number = int.from_bytes(addr)
        for length in self._lengths:
            found = self._by_length[length].get(number >> (_ALL - length))
            if found is not None:
                return found
        return None

    def chain(self, leaf: Cidr | None) -> Iterator[Cidr]:
        """Named prefixes that have all of a named one, itself first, of its family."""
        if leaf is None:
            return
        number = int.from_bytes(leaf.addr)
        family4 = is_family4(leaf)
        for length in self._lengths:
            if length <= leaf.length and (not family4 or length >= IPV4_BITS):
                found = self._by_length[length].get(number >> (_ALL - length))
                if found is not None:
                    yield found

    def within(self, outer: Cidr) -> Iterator[Cidr]:
        """Named prefixes that a prefix has all of, itself too, of its family."""
        last = int.from_bytes(outer.addr) | (1 << (_ALL - outer.length)) - 1
        end = Cidr(Address(last.to_bytes(16)), _ALL)
        for at in range(bisect_left(self._sorted, Cidr(outer.addr, 0)), len(self._sorted)):
            cidr = self._sorted[at]
            if cidr > end:
                return
            if contains(outer, cidr):
                yield cidr

    @property
    def lengths(self) -> list[int]:
        """Lengths of named prefixes, longest first."""
        return self._lengths

    def __contains__(self, cidr: Cidr) -> bool:
        return cidr in self._counts

    def __len__(self) -> int:
        """Prefixes that are named."""
        return len(self._counts)


def _covers_ipv4(cidr: Cidr) -> bool:
    """Whether a prefix of IPv6 has the mapped addresses in it."""
    if cidr.length >= IPV4_BITS:
        return False
    shift = _ALL - cidr.length
    return int.from_bytes(cidr.addr) >> shift == int.from_bytes(IPV4.addr) >> shift
