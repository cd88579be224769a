# SPDX-License-Identifier: Apache-2.0
"""What is told of one flow or drop: records that stand by themselves, so that those of nodes can be merged.

(``node``, ``boot``, ``sequence``) is unique; ``time`` orders records of several nodes, ``sequence`` those of
one boot of one node. Numbers that mean something on their node alone (``identity``, ``device``, ids of rules)
stand beside names. In JSON, fields with their default are left out.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

Type = Literal["new", "closed", "drop", "kernel_drop", "summary"]
"""``new``: a flow's verdict, or one that was judged again and differs. ``drop``: a packet that programs did
not carry; ``kernel_drop``: nor did the kernel. ``closed``, ``summary``: what a flow carried, at its end and
now and then.
"""

EndKind = Literal["pod", "node", "service", "world"]

DROPS = frozenset(("drop", "kernel_drop"))


class End(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Who has an address. ``name``: of the pod, node or Service (whose ``namespace`` it is); "" in the world.

    ``node``: where a pod runs. ``endpoint_of``: Services (``namespace/name``) that this address is an
    endpoint of.
    """

    address: str
    kind: EndKind
    namespace: str = ""
    name: str = ""
    node: str = ""
    labels: dict[str, str] = {}
    endpoint_of: tuple[str, ...] = ()

    def __str__(self) -> str:
        """``shop/web-0``, or the address."""
        if self.kind == "world" or not self.name:
            return self.address
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class RuleName(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A policy's rule. ``number`` counts from 0 in its direction; -1: none, the policy isolates.

    ``kind`` "": the rule of this ``id`` is not there any more, and nothing else is known of it. ``rule``: as
    its author named it. ``action``: as its author wrote it, in the words of enum rule_action. ``refused``:
    why the policy can't be used: what it selects is denied for that, by a rule that nobody wrote.
    """

    id: int
    kind: str = ""
    namespace: str = ""
    name: str = ""
    direction: str = ""
    number: int = -2  # so that -1 stands in JSON
    action: str = ""
    rule: str = ""
    monitor: bool = False
    refused: str = ""

    @property
    def policy(self) -> str:
        """``shop/allow-web``; of cluster kinds the name alone."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name

    @property
    def place(self) -> str:
        """``ingress[0]``, or ``ingress isolation``."""
        return f"{self.direction} isolation" if self.number < 0 else f"{self.direction}[{self.number}]"

    def __str__(self) -> str:
        """``NetworkPolicy shop/allow-web ingress[0]``."""
        return f"{self.kind} {self.policy} {self.place}" if self.kind else f"{self.id} (no longer there)"


class Traffic(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Packets and their bytes, from source to destination and back."""

    packets: int = 0
    bytes: int = 0
    reply_packets: int = 0
    reply_bytes: int = 0

    def since(self, before: Traffic) -> Traffic:
        """What came after ``before``."""
        return Traffic(
            self.packets - before.packets,
            self.bytes - before.bytes,
            self.reply_packets - before.reply_packets,
            self.reply_bytes - before.reply_bytes,
        )


class Redirected(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Messages and bytes from socket to socket, which no packet carried: of the source, and back."""

    messages: int = 0
    bytes: int = 0
    reply_messages: int = 0
    reply_bytes: int = 0

    def since(self, before: Redirected) -> Redirected:
        """What came after ``before``."""
        return Redirected(
            self.messages - before.messages,
            self.bytes - before.bytes,
            self.reply_messages - before.reply_messages,
            self.reply_bytes - before.reply_bytes,
        )


class FlowRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One line of a node's log.

    ``boot``: the kernel's boot id, shortened. ``time``: nanoseconds since the epoch; ``monotonic``: of the
    node's CLOCK_MONOTONIC; of a closed flow its last packet's, to a jiffy. ``direction``: as the pod sees it
    whose device it was. ``device``: that one's ifindex. ``service``: ``namespace/name`` that the client
    named, where a program translated or refused. ``rule`` gave the verdict, ``shadow_rule`` the verdict with
    policies in monitor mode in force. ``length``: bytes of the packet. ``identity``: the peer's. ``traffic``:
    since the flow's last record with traffic; ``total``: since it began, ``age`` seconds before its last
    packet. ``redirected``, ``total_redirected``: the same of what went from socket to socket beside it.
    ``location``: where in the kernel a packet was dropped. ``ended``: how a closed flow did.
    """

    node: str
    boot: str
    sequence: int
    time: int
    monotonic: int
    type: Type
    verdict: str
    direction: str
    protocol: str
    source: End
    destination: End
    source_port: int = 0
    destination_port: int = 0
    reason: str = ""
    service: str = ""
    rule: RuleName | None = None
    shadow_rule: RuleName | None = None
    path: str = ""
    length: int = 0
    tcp_flags: str = ""
    icmp_type: int | None = None
    icmp_code: int | None = None
    identity: int = 0
    device: int = 0
    location: str = ""
    traffic: Traffic | None = None
    total: Traffic | None = None
    age: float = 0.0
    redirected: Redirected | None = None
    total_redirected: Redirected | None = None
    ended: str = ""

    @property
    def pod_end(self) -> End:
        """The end whose device it was."""
        return self.destination if self.direction == "ingress" else self.source

    @property
    def peer_end(self) -> End:
        """The other one."""
        return self.source if self.direction == "ingress" else self.destination


class Lost(msgspec.Struct, frozen=True):
    """A line in a record's place: a follower was too slow for ``lost`` records."""

    lost: int


_encoder = msgspec.json.Encoder()


def to_json(line: FlowRecord | Lost) -> bytes:
    """One line of JSON, without its end."""
    return _encoder.encode(line)


def from_json(line: bytes) -> FlowRecord | Lost:
    """A line that :func:`to_json` made, by this version or a later one. ValueError where it is none."""
    try:
        found: Any = msgspec.json.decode(line)
        kind: type[FlowRecord | Lost] = Lost if isinstance(found, dict) and "lost" in found else FlowRecord
        return msgspec.convert(found, kind)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not a flow: {error}") from error
