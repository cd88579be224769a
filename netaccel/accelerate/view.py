# SPDX-License-Identifier: Apache-2.0
"""What is told of same-node acceleration. In JSON, fields with their default are left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from netaccel.model.acceleration import Check

__all__ = ["Carried", "Check", "Connection", "Receipt", "Status", "Tier", "Totals"]


class Tier(msgspec.Struct, frozen=True):
    """Whether a tier is in force; else ``reason`` says why not, and what would help.

    ``asked``: whether the settings want it.
    """

    on: bool
    reason: str = ""
    asked: bool = True


class Carried(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one connection carried: messages and bytes from socket to socket, and bytes by TCP.

    ``sent`` by this end, ``received`` from the other. ``tcp_path``: how its bytes by TCP go, ``peer``
    or ``tc``; "" where that isn't known.
    """

    path: str
    sent_messages: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    tcp_sent_bytes: int = 0
    tcp_received_bytes: int = 0
    tcp_path: str = ""


class Connection(msgspec.Struct, frozen=True, omit_defaults=True):
    """A pod's TCP connection. Addresses as text, ports in host order.

    ``reason``: why its path (``socket``, ``peer`` or ``tc``) is not ``socket``; "" where it is. ``passes``:
    messages that went by TCP, by reason (enum accel_pass). ``queued``: bytes that wait at the receiver.
    ``peer``: the other end's pod, ``namespace/name``; "" where it is none of this node. ``service``: that the
    client named. ``tcp_reason``: why its packets go through the node's stack though both ends are pods of
    this node; "" where they don't, or that isn't known.
    """

    pod: str
    local: str
    local_port: int
    remote: str
    remote_port: int
    carried: Carried
    peer: str = ""
    service: str = ""
    reason: str = ""
    tcp_reason: str = ""
    passes: dict[str, int] = {}
    queued: int = 0
    age: float = 0.0


OTHERS = "(others)"
"""Service, client and server of the receipt that those share that have none of their own."""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """Both ways together, by Service and pair of pods; it only grows.

    ``tcp_bytes``: of the same connections' messages that passed by TCP.
    """

    service: str
    client: str
    server: str
    connections: int = 0
    messages: int = 0
    bytes: int = 0
    tcp_bytes: int = 0
    passes: dict[str, int] = {}


class Totals(msgspec.Struct, frozen=True, omit_defaults=True):
    """Counts since the agent's start, and pairs now."""

    live: int = 0
    leaving: int = 0
    capacity: int = 0
    promotions: int = 0
    evictions: int = 0
    deferred: int = 0
    """Evictions that waited for a reader."""
    queued_bytes: int = 0
    refused: dict[str, int] = {}
    """Connections looked at last and not accelerated, by reason."""
    out: dict[str, int] = {}
    """Evictions by reason."""


class Status(msgspec.Struct, frozen=True):
    """What ``netaccel accel status`` shows of a node."""

    node: str
    peer: Tier
    socket: Tier
    checks: tuple[Check, ...] = ()
    totals: Totals = Totals()
    receipts: tuple[Receipt, ...] = ()
    unreachable: tuple[str, ...] = ()
    """Pods whose namespace can't be entered, and why."""
    through_stack: tuple[str, ...] = ()
    """Pods whose packets go through the node's stack though others' don't, and why."""


class Acceleration(Protocol):
    """What answers for a node, in any thread. ``status`` and ``connections`` may read maps, and block."""

    def status(self) -> Status:
        """The node, now."""
        ...

    def connections(self, pod: str | None) -> Sequence[Connection]:
        """TCP connections of one pod (``namespace/name``), or of all pods of the node. DatapathError."""
        ...

    def path_of(self, src: bytes, sport: int, dst: bytes, dport: int) -> Carried | None:
        """What a connection carried that is or was accelerated; None for others.

        ``src`` is this end. From memory: it does not block. It answers for some minutes after the
        connection's end, for its last record.
        """
        ...
