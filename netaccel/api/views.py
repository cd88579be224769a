# SPDX-License-Identifier: Apache-2.0
"""Pure functions from dumps of the maps to what JSON can hold; shared by the API and the command line.

Everything here says what the kernel holds. Names of enumerators come from BTF.
"""

from __future__ import annotations

import socket
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from netaccel.model.address import text
from netaccel.observe.budget import ZERO
from netaccel.observe.figures import Labels, Maps, total
from netaccel.records import (
    AffinityKey,
    Backend,
    DropPairKey,
    Flow,
    FlowKey,
    Frontend,
    FrontendKey,
    Identity,
    PolicyEndpoint,
    PolicyFlow,
    PolicyPeerKey,
    PolicyRule,
    PolicyVerdict,
    Service,
    ServiceCounters,
)

PROTOCOLS = {socket.IPPROTO_TCP: "TCP", socket.IPPROTO_UDP: "UDP", socket.IPPROTO_SCTP: "SCTP"}
FAMILIES = {int(socket.AF_INET): "IPv4", int(socket.AF_INET6): "IPv6"}
_HIDDEN = {"wildcard", "reserved_port"}  # kinds that guard an address and serve nobody


class TrafficView(TypedDict):
    """Packets and their bytes."""

    packets: int
    bytes: int


class CountersView(TypedDict):
    """What one service port has carried since the datapath was made, all CPUs together."""

    xdp: dict[str, TrafficView]
    tc: dict[str, TrafficView]
    connects: int
    refused: int


class FrontendView(TypedDict):
    """One address at which a service port is reached. Slots count Maglev's table, 0: no usable backend."""

    kind: str
    address: str
    port: int
    flags: list[str]
    wire_slots: int
    pod_slots: int
    affinity_seconds: int


class BackendView(TypedDict):
    """One endpoint of a service port."""

    id: int
    address: str
    port: int
    state: str
    local: bool
    generation: int


class PortView(TypedDict):
    """One port of a Service in one protocol and family."""

    id: int
    name: str
    protocol: str
    port: int
    family: str
    frontends: list[FrontendView]
    backends: list[BackendView]
    counters: CountersView


class ServiceView(TypedDict):
    """A Service with all that the maps hold of it."""

    namespace: str
    name: str
    ports: list[PortView]


@dataclass(frozen=True, slots=True)
class Tables:
    """Dumps of the maps that hold Services, by the maps' names."""

    services: Mapping[int, Service]
    frontends: Mapping[FrontendKey, Frontend]
    backends: Mapping[int, Backend]
    service_counters: Mapping[int, Sequence[ServiceCounters]]


def read_tables(maps: Maps) -> Tables:
    """Read them now."""
    return Tables(**{name: maps.dump(name) for name in Tables.__slots__})


def services(tables: Tables, labels: Labels) -> list[ServiceView]:
    """Every Service, by namespace and name; frontends whose names are missing are left to ``map dump``."""
    frontends: dict[int, list[FrontendView]] = defaultdict(list)
    for key, frontend in sorted(tables.frontends.items(), key=lambda item: (item[1].kind, item[0])):
        view = _frontend(key, frontend, labels)
        if view["kind"] not in _HIDDEN:
            frontends[frontend.service].append(view)
    backends: dict[int, list[BackendView]] = defaultdict(list)
    free = _value(labels, "backend_state", "free")
    for id_, backend in sorted(tables.backends.items()):
        if backend.state != free:
            backends[backend.service].append(_backend(id_, backend, labels))
    found: dict[tuple[str, str], list[PortView]] = defaultdict(list)
    for id_, service in tables.services.items():
        found[service.namespace, service.name].append(
            PortView(
                id=id_,
                name=service.port_name,
                protocol=protocol_name(service.proto),
                port=service.port,
                family=FAMILIES.get(service.family, str(service.family)),
                frontends=frontends[id_],
                backends=backends[id_],
                counters=counters(tables.service_counters.get(id_, ())),
            )
        )
    return [
        ServiceView(
            namespace=namespace,
            name=name,
            ports=sorted(ports, key=lambda p: (p["port"], p["protocol"], p["family"])),
        )
        for (namespace, name), ports in sorted(found.items())
    ]


def counters(per_cpu: Sequence[ServiceCounters]) -> CountersView:
    """The sum over CPUs."""
    sums: ServiceCounters = total(per_cpu) if per_cpu else ZERO
    return CountersView(
        xdp={
            "request": TrafficView(packets=sums.xdp_request_packets, bytes=sums.xdp_request_bytes),
            "reply": TrafficView(packets=sums.xdp_reply_packets, bytes=sums.xdp_reply_bytes),
        },
        tc={
            "request": TrafficView(packets=sums.tc_request_packets, bytes=sums.tc_request_bytes),
            "reply": TrafficView(packets=sums.tc_reply_packets, bytes=sums.tc_reply_bytes),
        },
        connects=sums.connects,
        refused=sums.refused,
    )


def port_counts(port: PortView) -> tuple[int, int, int, int]:
    """Connects, packets and bytes of both directions and paths, refused."""
    counts = port["counters"]
    traffic = [*counts["xdp"].values(), *counts["tc"].values()]
    return (
        counts["connects"],
        sum(t["packets"] for t in traffic),
        sum(t["bytes"] for t in traffic),
        counts["refused"],
    )


def _frontend(key: FrontendKey, frontend: Frontend, labels: Labels) -> FrontendView:
    return FrontendView(
        kind=labels.labels("frontend_kind").get(frontend.kind, str(frontend.kind)),
        address=text(key.addr),
        port=key.port,
        flags=flag_names(frontend.flags, labels.labels("frontend_flag")),
        wire_slots=frontend.wire_length,
        pod_slots=frontend.pod_length,
        affinity_seconds=frontend.affinity_timeout,
    )


def _backend(id_: int, backend: Backend, labels: Labels) -> BackendView:
    return BackendView(
        id=id_,
        address=text(backend.addr),
        port=backend.port,
        state=labels.labels("backend_state").get(backend.state, str(backend.state)),
        local="local" in flag_names(backend.flags, labels.labels("backend_flag")),
        generation=backend.generation,
    )


def kind_title(label: str) -> str:
    """``cluster_ip`` → ``ClusterIP``, as Kubernetes spells it."""
    return "".join("IP" if word == "ip" else word.capitalize() for word in label.split("_"))


def protocol_name(number: int) -> str:
    """``TCP``, or the number."""
    return PROTOCOLS.get(number, str(number))


def flag_names(bits: int, names: Mapping[int, str]) -> list[str]:
    """Names of the bits that are set; a bit without a name as its number."""
    return [names.get(1 << n, str(1 << n)) for n in range(bits.bit_length()) if bits >> n & 1]


def _value(labels: Labels, enum: str, label: str) -> int:
    return next(value for value, name in labels.labels(enum).items() if name == label)


# ------------------------------------------------------------------ map dump

# Fields that hold an enumerator, and fields that hold flags, by record.
_ENUMS = {
    (Frontend, "kind"): "frontend_kind",
    (Backend, "state"): "backend_state",
    (FlowKey, "direction"): "flow_direction",
    (Flow, "state"): "flow_state",
    (Flow, "path"): "flow_path",
    (PolicyVerdict, "action"): "policy_action",
    (PolicyVerdict, "shadow"): "policy_action",
    (PolicyRule, "kind"): "policy_kind",
    (PolicyRule, "direction"): "policy_direction",
    (PolicyRule, "action"): "rule_action",
    (PolicyPeerKey, "direction"): "policy_direction",
    (PolicyFlow, "state"): "policy_flow_state",
    (PolicyFlow, "direction"): "policy_direction",
    (PolicyFlow, "verdict"): "verdict",
    (DropPairKey, "type"): "flow_event_type",
}
_FLAGS = {
    (Frontend, "flags"): "frontend_flag",
    (Backend, "flags"): "backend_flag",
    (Flow, "flags"): "flow_flag",
    (Identity, "flags"): "identity_flag",
    (PolicyEndpoint, "flags"): "endpoint_flag",
    (PolicyFlow, "flags"): "policy_flow_flag",
}
# Array maps whose index is an enumerator.
_INDEXED = {"drops": "drop_reason", "counters": "counter"}
# Per-CPU maps whose values add up; those of the others stay apart.
_SUMMED = {"drops", "counters", "service_counters", "rule_counters"}


def map_rows(name: str, dump: Mapping[Any, Any], labels: Labels) -> list[dict[str, object]]:
    """One flat row for each entry: fields of the key, then those of the value."""
    index = labels.labels(_INDEXED[name]) if name in _INDEXED else {}
    rows = []
    for key, value in dump.items():
        head = record_fields(key, labels) if isinstance(key, tuple) else {"key": index.get(key, key)}
        if not isinstance(value, list):
            rows.append(_row(head, value, labels))
        elif name in _SUMMED:
            rows.append(_row(head, _sum(value), labels))
        else:
            rows += [_row({**head, "cpu": cpu}, one, labels) for cpu, one in enumerate(value)]
    return rows


def _row(head: dict[str, object], value: Any, labels: Labels) -> dict[str, object]:
    """The key's fields and the value's; a name that both have gets an underscore in the value."""
    fields = record_fields(value, labels) if isinstance(value, tuple) else {"value": value}
    return head | {f"{name}_" if name in head else name: field for name, field in fields.items()}


def record_fields(record: tuple[Any, ...], labels: Labels) -> dict[str, object]:
    """A record's fields with addresses, protocols, enumerators and flags in words."""
    kind = type(record)
    return {
        field: _readable(kind, field, value, record, labels)
        for field, value in zip(kind._fields, record, strict=True)  # type: ignore[attr-defined]
    }


def _readable(kind: type, field: str, value: object, record: tuple[Any, ...], labels: Labels) -> object:
    if isinstance(value, bytes):
        if isinstance(record, AffinityKey) and record.from_socket:
            return f"netns:{int.from_bytes(value[:8], sys.byteorder)}"
        return text(value) if len(value) == 16 else value.hex(":")
    if not isinstance(value, int):
        return value
    if field == "proto":
        return protocol_name(value)
    if field == "family":
        return FAMILIES.get(value, value)
    if (
        isinstance(record, DropPairKey) and field == "reason"
    ):  # the kernel's own are numbers that we don't name
        own = record.type != _value(labels, "flow_event_type", "kernel_drop")
        return labels.labels("drop_reason").get(value, value) if own else value
    if (kind, field) in _ENUMS:
        return labels.labels(_ENUMS[kind, field]).get(value, value)
    if (kind, field) in _FLAGS:
        return flag_names(value, labels.labels(_FLAGS[kind, field]))
    return value


def _sum(per_cpu: Sequence[Any]) -> Any:
    return total(per_cpu) if isinstance(per_cpu[0], tuple) else sum(per_cpu)
