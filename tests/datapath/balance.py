# SPDX-License-Identifier: Apache-2.0
"""Services and backends as tests write them, put into the maps of a loaded object.

::

    services:
      - frontend: 192.0.2.10:30080/tcp     # or a list of them
        kind: NODE_PORT
        flags: [AFFINITY]                   # names of enum frontend_flag without prefix
        backends: [10.244.2.2:8080, 10.244.1.2:8080 local, 10.244.2.3:8080 terminating]
        wire: [0, 1]                        # which of them the tables name; all unless told otherwise
        pod: [0, 1]
        affinity_timeout: 60
        source_ranges: [198.51.100.0/24]
    wildcards: [203.0.113.1]                # addresses whose other ports are refused
    node: [192.0.2.10, 2001:db8:a::10]

Service ids count from 1, backend ids too, in the order of the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from programs import Loaded

from netaccel.model.address import is_ipv4, parse_address, parse_cidr
from netaccel.records import Backend, Frontend, FrontendKey, Node, SourceRange, SourceRangeKey

PROTOCOLS = {"tcp": 6, "udp": 17}
STATES = {"active": "BACKEND_ACTIVE", "terminating": "BACKEND_TERMINATING", "free": "BACKEND_FREE"}
UNSPECIFIED = ("0.0.0.0", "::")


def split_endpoint(text: str) -> tuple[bytes, int, int]:
    """Address, port and protocol of ``192.0.2.1:80/tcp`` or ``[2001:db8::1]:80/udp``."""
    place, _, protocol = text.partition("/")
    host, _, port = place.rpartition(":")
    return parse_address(host.strip("[]")), int(port), PROTOCOLS[protocol or "tcp"]


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Balance:
    """Writes a description into an object's maps."""

    def __init__(self, loaded: Loaded, described: Mapping[str, Any]) -> None:
        self._loaded = loaded
        self._constants = loaded.abi.constants
        self._backend = self._service = self._slot = 0
        self._frontends: dict[FrontendKey, Frontend] = {}
        node4, node6 = described.get("node", UNSPECIFIED)
        loaded.write("node", 0, Node(parse_address(node4), parse_address(node6)))
        for service in described.get("services", []):
            self._add_service(service)
        for address in described.get("wildcards", []):
            key = FrontendKey(parse_address(address), 0, 0)
            self._write_frontend(key, kind="WILDCARD")

    def _add_service(self, service: Mapping[str, Any]) -> None:
        self._service += 1
        first = self._backend + 1
        for text in service.get("backends", []):
            self._add_backend(text)
        own = range(len(service.get("backends", [])))
        wire = self._table([first + i for i in service.get("wire", own)])
        pod = self._table([first + i for i in service.get("pod", own)])
        flags = sum(self._constants[f"FRONTEND_{f}"] for f in service.get("flags", []))
        for text in service.get("source_ranges", []):
            cidr = parse_cidr(text)
            key = SourceRangeKey(32 + cidr.length, self._service, cidr.addr)
            self._loaded.write("source_ranges", key, SourceRange(1))
            flags |= self._constants["FRONTEND_SOURCE_RANGES"]
        for text in _as_list(service["frontend"]):
            self._write_frontend(
                FrontendKey(*split_endpoint(text)), service.get("kind", "NODE_PORT"), flags, wire, pod,
                service.get("affinity_timeout", 0),
            )  # fmt: skip

    def _write_frontend(
        self, key: FrontendKey, kind: str, flags: int = 0, wire: tuple[int, int] = (0, 0),
        pod: tuple[int, int] = (0, 0), timeout: int = 0,
    ) -> None:  # fmt: skip
        number = self._constants[f"FRONTEND_{kind}"]
        self._frontends[key] = Frontend(self._service, flags, number, 0, *wire, *pod, timeout)
        self.set_flags(())

    def set_flags(self, names: Sequence[str]) -> None:
        """Write every frontend with these flags besides its own."""
        more = sum(self._constants[f"FRONTEND_{name}"] for name in names)
        for key, value in self._frontends.items():
            table = "frontends4" if is_ipv4(key.addr) else "frontends6"
            self._loaded.write(table, key, value._replace(flags=value.flags | more))

    def _add_backend(self, text: str) -> None:
        place, *words = text.split()
        self._backend += 1
        self.write_backend(self._backend, place, self._service, words)

    def write_backend(
        self, number: int, place: str, service: int, words: Sequence[str] = (), generation: int = 1
    ) -> None:
        """One slot of ``backends``; words: ``local``, ``terminating``, ``free``."""
        addr, port, proto = split_endpoint(place)
        state = next((STATES[w] for w in words if w in STATES), "BACKEND_ACTIVE")
        flags = self._constants["BACKEND_LOCAL"] if "local" in words else 0
        value = Backend(addr, port, proto, self._constants[state], flags, 0, 0, service, generation)
        self._loaded.write("backends", number, value)

    def _table(self, ids: Sequence[int]) -> tuple[int, int]:
        """A range of ``maglev`` that names each backend in turn."""
        start = self._slot
        for number in ids:
            self._loaded.write("maglev", self._slot, number)
            self._slot += 1
        return start, len(ids)
