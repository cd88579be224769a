# SPDX-License-Identifier: Apache-2.0
"""Samples of the ring buffer ``flow_events`` (struct flow_event of abi.h) as records, and their words.
Pure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol, cast, get_args

from netaccel.observe.figures import Labels
from netaccel.observe.flows.record import Type
from netaccel.records import FlowEvent

PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
_TYPES: Mapping[str, Type] = {"verdict": "new", "drop": "drop", "kernel_drop": "kernel_drop"}
_TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")  # RFC 9293 3.1, low bit first
_FLAG_TEXTS = tuple(
    ",".join(name for bit, name in enumerate(_TCP_FLAGS) if number >> bit & 1) for number in range(256)
)


class EventCodec(Protocol):
    """netaccel.datapath.abi.Codec of struct flow_event."""

    size: int

    def unpack_many(self, data: bytes) -> list[FlowEvent]:
        """Values of a buffer that holds a whole number of them."""
        ...


class Decoded(NamedTuple):
    """Samples that were events, and how many were not."""

    events: list[FlowEvent]
    unparsable: int


class Decoder:
    """Bytes to events. What has another size, or a type or direction that abi.h lacks, is unparsable."""

    def __init__(self, codec: EventCodec, labels: Labels) -> None:
        self._codec = codec
        self._types = labels.labels("flow_event_type").keys()
        self._directions = labels.labels("policy_direction").keys()

    def decode(self, samples: Sequence[bytes]) -> Decoded:
        """Never raises, whatever the samples hold."""
        size = self._codec.size
        right = [sample for sample in samples if len(sample) == size]
        events = [
            event
            for event in self._codec.unpack_many(b"".join(right))
            if event.type in self._types and event.direction in self._directions
        ]
        return Decoded(events, len(samples) - len(events))


class Words:
    """Enumerators of events as records spell them; a number without a name stays a number."""

    def __init__(self, labels: Labels, kernel_reasons: Mapping[int, str]) -> None:
        """``kernel_reasons``: enum skb_drop_reason, lower case and without its prefix; may be filled
        later.
        """
        self.types = {
            value: _TYPES[name] for value, name in labels.labels("flow_event_type").items() if name in _TYPES
        }
        self._verdicts = labels.labels("verdict")
        self._directions = labels.labels("policy_direction")
        self._paths = labels.labels("flow_path")
        self._reasons = {k: "" if v == "none" else v for k, v in labels.labels("drop_reason").items()}
        self._kernel_reasons = kernel_reasons
        self.actions = labels.labels("rule_action")
        self.kinds = {k: _camel(v) for k, v in labels.labels("policy_kind").items()}

    def known(self) -> dict[str, Collection[str]]:
        """Words that a record's attributes may have, by attribute."""
        return {
            "verdict": tuple(self._verdicts.values()),
            "path": tuple(self._paths.values()),
            "direction": tuple(self._directions.values()),
            "type": get_args(Type),
        }

    def type(self, number: int) -> Type:
        """``new``, ``drop`` or ``kernel_drop``."""
        return self.types.get(number, cast("Type", str(number)))

    def verdict(self, number: int) -> str:
        """``forwarded``, ``dropped``, ..."""
        return self._verdicts.get(number) or str(number)

    def direction(self, number: int) -> str:
        """``ingress`` or ``egress``."""
        return self._directions.get(number) or str(number)

    def path(self, number: int) -> str:
        """``tc``, ``xdp``, ..."""
        return self._paths.get(number) or str(number)

    def reason(self, number: int, type_: Type) -> str:
        """Of enum drop_reason, or of the kernel's own; "" for none."""
        names = self._kernel_reasons if type_ == "kernel_drop" else self._reasons
        return names.get(number, str(number))


def protocol(number: int) -> str:
    """``TCP``, or the number."""
    return PROTOCOLS.get(number) or str(number)


def tcp_flags(bits: int) -> str:
    """``SYN,ACK``."""
    return _FLAG_TEXTS[bits & 255]


def _camel(label: str) -> str:
    """``cluster_network_policy`` → ``ClusterNetworkPolicy``."""
    return "".join(word.capitalize() for word in label.split("_"))
