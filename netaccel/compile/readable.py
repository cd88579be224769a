# SPDX-License-Identifier: Apache-2.0
"""Dumps of the maps as lines that a person reads: who is reached where, and whom they get.

::

    10.96.0.10:80/TCP ClusterIP default/web:http both=[10.0.1.2:8080, 10.0.2.2:8080]
    192.0.2.1:30080/TCP NodePort default/web:http wire=drop pod=[10.0.2.2:8080] wire-local
    10.96.0.10 Wildcard default/web:http

``wire``: clients outside the node. ``pod``: those on it. Without anybody to choose: ``refuse`` or ``drop``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from netaccel.compile.desired import SERVICE_BITS, Codes
from netaccel.compile.services import Kind, State
from netaccel.model.address import Address, Cidr, cidr_text, endpoint_text, text
from netaccel.model.service import Protocol
from netaccel.records import Backend, Frontend, FrontendKey, Service, SourceRangeKey

KINDS = {
    Kind.CLUSTER_IP: "ClusterIP",
    Kind.NODE_PORT: "NodePort",
    Kind.LOAD_BALANCER: "LoadBalancer",
    Kind.EXTERNAL_IP: "ExternalIP",
    Kind.WILDCARD: "Wildcard",
    Kind.RESERVED_PORT: "ReservedPort",
}
STATES = {State.ACTIVE: "active", State.TERMINATING: "terminating", State.NOT_READY: "not-ready"}


@dataclass(frozen=True, slots=True)
class Readable:
    """Dumps of the maps by their names; ``maglev`` by slot."""

    constants: Mapping[str, int]
    services: Mapping[int, Service]
    frontends: Mapping[FrontendKey, Frontend]
    backends: Mapping[int, Backend]
    maglev: Mapping[int, int]
    source_ranges: Iterable[SourceRangeKey]

    def frontend_lines(self) -> list[str]:
        """A line for each frontend, by address, port and protocol."""
        codes = Codes(self.constants)
        kinds = {number: KINDS[kind] for kind, number in codes.kind.items()}
        return [
            " ".join(
                (
                    _where(key),
                    kinds.get(f.kind, f"kind-{f.kind}"),
                    self._name(f.service),
                    *self._whom(f, codes),
                )
            )
            for key, f in sorted(self.frontends.items())
        ]

    def backend_lines(self) -> list[str]:
        """A line for each backend that isn't free, by address and port."""
        codes = Codes(self.constants)
        states = {number: STATES[state] for state, number in codes.state.items()}
        lines = []
        for backend in sorted(
            self.backends.values(), key=lambda b: (b.addr, b.port, b.proto, self._name(b.service))
        ):
            if backend.state == codes.free:
                continue
            where = f"{endpoint_text(backend.addr, backend.port)}/{_protocol(backend.proto)}"
            local = ["local"] if backend.flags & codes.local else []
            state = states.get(backend.state, f"state-{backend.state}")
            lines.append(" ".join([where, self._name(backend.service), state, *local]))
        return lines

    def source_range_lines(self) -> list[str]:
        """A line for each client CIDR of a service port."""
        cidrs = (
            (key.service, Cidr(Address(key.addr), key.prefix_length - SERVICE_BITS))
            for key in self.source_ranges
        )
        return sorted(f"{self._name(service)} {cidr_text(cidr)}" for service, cidr in cidrs)

    def _name(self, number: int) -> str:
        service = self.services.get(number)
        if service is None:
            return f"#{number}"
        port = f":{service.port_name}" if service.port_name else ""
        return f"{service.namespace}/{service.name}{port}"

    def _whom(self, f: Frontend, codes: Codes) -> list[str]:
        if f.kind in (codes.kind[Kind.WILDCARD], codes.kind[Kind.RESERVED_PORT]):
            return []
        wire = self._table(f.wire_offset, f.wire_length, bool(f.flags & codes.wire_drop))
        pod = self._table(f.pod_offset, f.pod_length, bool(f.flags & codes.pod_drop))
        words = [f"both={wire}"] if wire == pod else [f"wire={wire}", f"pod={pod}"]
        for flag, word in (
            (codes.wire_local, "wire-local"),
            (codes.pod_local, "pod-local"),
            (codes.affinity, f"affinity={f.affinity_timeout}s"),
            (codes.source_ranges, "source-ranges"),
            (codes.node_allowed, "node-allowed"),
        ):
            if f.flags & flag:
                words.append(word)
        return words

    def _table(self, offset: int, length: int, drops: bool) -> str:
        if not length:
            return "drop" if drops else "refuse"
        numbers = {self.maglev.get(slot, 0) for slot in range(offset, offset + length)}
        there = sorted(self.backends[n][:2] for n in numbers if n in self.backends)
        missing = [f"#{n}" for n in sorted(numbers) if n not in self.backends]
        return f"[{', '.join([endpoint_text(*place) for place in there] + missing)}]"


def _where(key: FrontendKey) -> str:
    if not key.port and not key.proto:
        return text(key.addr)
    return f"{endpoint_text(key.addr, key.port)}/{_protocol(key.proto)}"


def _protocol(number: int) -> str:
    return Protocol(number).name if number in list(Protocol) else str(number)
