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


class IdentityKey(NamedTuple):
    """Key of ``identities``. ``prefix_length`` of the 16-byte form: IPv4 /n is 96 + n."""

    prefix_length: int
    addr: bytes


class Identity(NamedTuple):
    """Value of ``identities``. ``flags``: enum identity_flag."""

    identity: int
    flags: int


class PolicyEndpoint(NamedTuple):
    """Value of ``policy_endpoints`` (key: ifindex of the pod's device)."""

    subject: int
    identity: int
    ingress_row: int
    egress_row: int
    flags: int
    addr4: bytes
    addr6: bytes


class PolicyPeerKey(NamedTuple):
    """Key of ``policy_peers`` (value: a row)."""

    subject: int
    identity: int
    direction: int


class PolicyRowKey(NamedTuple):
    """Key of ``policy_rows``. ``prefix_length``: 32, 48 (a protocol) or 48 + n (a prefix of ports)."""

    prefix_length: int
    row: int
    proto: int
    port: int


class PolicyVerdict(NamedTuple):
    """Value of ``policy_rows``. ``action``, ``shadow``: enum policy_action."""

    rule: int
    shadow_rule: int
    action: int
    shadow: int
    isolated: int
    shadow_isolated: int


class PolicyRule(NamedTuple):
    """Value of ``policy_rules`` (key: rule id, 0 never used)."""

    namespace: str
    name: str
    kind: int
    direction: int
    action: int
    monitor: int
    number: int


class PolicyRevision(NamedTuple):
    """Value of ``policy_revision`` (key: 0)."""

    revision: int
    strict: int


class PolicyFlowKey(NamedTuple):
    """Key of ``policy_flows4`` and ``policy_flows6``: the pod's end first, whoever opened the flow."""

    pod: bytes
    peer: bytes
    pod_port: int
    peer_port: int
    proto: int
    ifindex: int


class PolicyFlow(NamedTuple):
    """Value of ``policy_flows4`` and ``policy_flows6``."""

    revision: int
    identity: int
    rule: int
    shadow_rule: int
    seen: int
    opened: int
    state: int
    direction: int
    verdict: int
    flags: int
    service: int
    sent_packets: int
    sent_bytes: int
    received_packets: int
    received_bytes: int


class AccelSocket(NamedTuple):
    """Value of ``accel_sockets``, of an enrolled socket."""

    end: int
    generation: int


class AccelPair(NamedTuple):
    """Value of ``accel_pairs`` (key: slot)."""

    generation: int
    state: int
    revision: int


class AccelEnd(NamedTuple):
    """Value of ``accel_ends`` (key: 2 × slot, and 2 × slot + 1): one end of a pair, and what it sent."""

    cookie: int
    sock: int
    src: bytes
    dst: bytes
    sport: int
    dport: int
    ifindex: int
    queued: int
    least: int
    sent_messages: int
    sent_bytes: int
    passed_bytes: int
    pass_stopped: int
    pass_policy: int
    pass_call: int
    pass_reader: int
    pass_peer: int
    pass_unread: int
    pass_full: int
    refreshed: int


class AccelWanted(NamedTuple):
    """Value of ``accel_wanted`` (key: a socket's cookie)."""

    end: int
    generation: int
    ifindex: int


class AccelSeen(NamedTuple):
    """A socket as the iterators ``accel_scan`` and ``accel_list`` saw it."""

    cookie: int
    netns: int
    sent_bytes: int
    received_bytes: int
    src: bytes
    dst: bytes
    sport: int
    dport: int
    flags: int
    sent_segments: int
    received_segments: int
    queued: int
    unsent: int
    end: int
    generation: int


class AccelResult(NamedTuple):
    """What became of a socket that ``accel_enrol`` found among ``accel_wanted``."""

    cookie: int
    error: int
    flags: int


class PodPeerKey(NamedTuple):
    """Key of ``pod_peers``: a pod's address."""

    addr: bytes


class PodPeer(NamedTuple):
    """Value of ``pod_peers``. ``mac`` is the pod's own, ``gateway`` that by which it reaches the node."""

    ifindex: int
    bridge: int
    mac: bytes
    gateway: bytes


class PeerHints(NamedTuple):
    """Value of ``peer_hints`` (key: 0)."""

    likely: bytes


class DryRun(NamedTuple):
    """Value of ``dry_run`` (key: 0), of an instance of ``tc_pod`` loaded with the constant ``dry_run``.

    ``ifindex`` is asked; with all else zero a test run answers. Ports and addresses after translation.
    """

    ifindex: int
    judged: int
    reason: int
    identity: int
    subject: int
    row: int
    rule: int
    shadow_rule: int
    service: int
    backend: int
    src: bytes
    dst: bytes
    sport: int
    dport: int
    proto: int
    direction: int
    verdict: int
    action: int
    shadow: int


class GateKey(NamedTuple):
    """Key of ``gate_addresses`` (value: 1)."""

    addr: bytes


class FlowEvent(NamedTuple):
    """A sample of ``flow_events``. ``time``: nanoseconds of CLOCK_MONOTONIC."""

    time: int
    src: bytes
    dst: bytes
    sport: int
    dport: int
    proto: int
    direction: int
    verdict: int
    type: int
    ifindex: int
    reason: int
    identity: int
    rule: int
    shadow_rule: int
    service: int
    length: int
    path: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int
    location: int


class DropPairKey(NamedTuple):
    """Key of ``drop_pairs``."""

    src: bytes
    dst: bytes
    dport: int
    proto: int
    type: int
    reason: int
    ifindex: int
    rule: int


class DropPair(NamedTuple):
    """Value of ``drop_pairs``. ``window``: jiffies of its last event."""

    packets: int
    bytes: int
    window: int
