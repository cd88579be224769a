# SPDX-License-Identifier: Apache-2.0
"""One typed record per C struct of ``bpf/include/abi.h``: names and Python types only.

Layouts (sizes, offsets, byte order, padding) come from BTF through :mod:`netaccel.datapath.abi`, which
refuses a record whose fields are not those of the struct of the same name (``FrontendKey`` stands for
``frontend4_key`` and ``frontend6_key`` both: ``Frontend4Key`` exists in the kernel only).

Addresses are ``bytes`` of 16 octets, IPv4 mapped, network byte order. Ports are ``int`` in host order.
Enum-valued fields are ``int``; their names come from BTF. Padding has no field here. Records are
``NamedTuple``s: hashable, immutable, and cheap by the hundred thousand.
"""

from __future__ import annotations

from typing import NamedTuple


class FrontendKey(NamedTuple):
    """Where a Service is reached. In map ``frontends4`` for IPv4-mapped addresses, else ``frontends6``."""

    addr: bytes
    port: int
    proto: int


class Frontend(NamedTuple):
    """Value of ``frontends4`` and ``frontends6``."""

    service: int
    flags: int
    kind: int
    zone: int
    wire_offset: int
    wire_length: int
    pod_offset: int
    pod_length: int
    affinity_timeout: int


class Service(NamedTuple):
    """Value of ``services`` (key: service port id). Strings without NULs."""

    namespace: str
    name: str
    port_name: str
    port: int
    proto: int
    family: int


class Backend(NamedTuple):
    """Value of ``backends`` (key: backend id, 0 never used)."""

    addr: bytes
    port: int
    proto: int
    state: int
    flags: int
    zone: int
    weight: int
    service: int
    generation: int


class SourceRangeKey(NamedTuple):
    """Key of ``source_ranges``. ``prefix_length``: 32 (service) + bits of the address (IPv4: 96 + n)."""

    prefix_length: int
    service: int
    addr: bytes


class SourceRange(NamedTuple):
    """Value of ``source_ranges``."""

    allowed: int


class AffinityKey(NamedTuple):
    """Key of ``affinity``."""

    client: bytes
    service: int
    from_socket: int


class Affinity(NamedTuple):
    """Value of ``affinity``."""

    backend: int
    generation: int
    seen: int


class FlowKey(NamedTuple):
    """Key of ``flows4`` and ``flows6``."""

    src: bytes
    dst: bytes
    sport: int
    dport: int
    proto: int
    direction: int


class Flow(NamedTuple):
    """Value of ``flows4`` and ``flows6``."""

    new_src: bytes
    new_dst: bytes
    new_sport: int
    new_dport: int
    service: int
    backend: int
    generation: int
    seen: int
    repaired: int
    state: int
    flags: int
    path: int
    hop_dst: bytes
    hop_src: bytes
    hop_ifindex: int
    hop_seen: int
    hop_mtu: int


class FragmentKey(NamedTuple):
    """Key of ``fragments``."""

    src: bytes
    dst: bytes
    id: int
    proto: int


class Fragment(NamedTuple):
    """Value of ``fragments``."""

    sport: int
    dport: int
    seen: int


class SockPeer(NamedTuple):
    """Value of ``sock_peer`` (key: a socket's cookie). ``netns`` is a cookie too (SO_NETNS_COOKIE)."""

    netns: int
    addr: bytes
    backend_addr: bytes
    port: int
    backend_port: int
    service: int
    backend: int
    generation: int


class SockNatKey(NamedTuple):
    """Key of ``sock_nat``."""

    cookie: int
    backend_addr: bytes
    backend_port: int
    proto: int


class SockNat(NamedTuple):
    """Value of ``sock_nat``."""

    addr: bytes
    port: int
    service: int
    backend: int
    generation: int


class SockUdpKey(NamedTuple):
    """Key of ``sock_udp``."""

    cookie: int
    addr: bytes
    port: int


class SockUdp(NamedTuple):
    """Value of ``sock_udp``."""

    backend: int
    generation: int


class Node(NamedTuple):
    """Value of ``node`` (key: 0)."""

    addr4: bytes
    addr6: bytes


class Traffic(NamedTuple):
    """Value of ``drops``, one per CPU (key: drop reason)."""

    packets: int
    bytes: int


class ServiceCounters(NamedTuple):
    """Value of ``service_counters``, one per CPU (key: service port id)."""

    xdp_request_packets: int
    xdp_request_bytes: int
    xdp_reply_packets: int
    xdp_reply_bytes: int
    tc_request_packets: int
    tc_request_bytes: int
    tc_reply_packets: int
    tc_reply_bytes: int
    connects: int
    refused: int


class Limiter(NamedTuple):
    """Value of ``limiter``, one per CPU (key: 0)."""

    tick: int
    admitted: int
