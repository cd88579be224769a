# SPDX-License-Identifier: Apache-2.0
"""What of a socket, its owner or its programs keeps a connection with TCP."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from netaccel.accelerate.facts import Facts
from netaccel.accelerate.slots import Party
from netaccel.accelerate.wishes import Wish
from netaccel.model.endpoint import PodKey

DISABLED = "disabled by its owner"
SHAPED = "its pod's bandwidth is bounded"
SPLICES = "a program of its pod may splice or ask FIONREAD"
LEFT_POD = "its pod is gone"
BLOCKING = "a blocking socket"

OF_FLAGS = {
    "ACCEL_CLOSING": "closing",
    "ACCEL_ULP": "kTLS, MPTCP or their like",
    "ACCEL_FOREIGN": "in another tool's sockmap",
    "ACCEL_LOWAT": "SO_RCVLOWAT is set",
    "ACCEL_FILTER": "it has a socket filter",
    "ACCEL_ZEROCOPY": "SO_ZEROCOPY is set",
}
_AGAIN = 60.0  # seconds after which programs that were looked at are looked at again


def of_socket(flags: int, constants: Mapping[str, int], *, enrolled: bool = False) -> str:
    """What of a socket keeps it with TCP; "" for nothing. ``flags``: enum accel_flag.

    Of one that is enrolled the program itself asks whether its reader blocks.
    """
    for name, text in OF_FLAGS.items():
        if flags & constants[name]:
            return text
    return "" if enrolled or flags & constants["ACCEL_NONBLOCK"] else BLOCKING


def of_owner(facts: Facts, pod: PodKey | None, address: bytes, port: int) -> str:
    """What an end's owner has against it; "" for nothing."""
    known = facts.pods.get(pod) if pod else None
    if known is None:
        return LEFT_POD
    if known.shaped:
        return SHAPED
    return DISABLED if facts.wishes.of(known.key, address, port) is Wish.DISABLED else ""


def vouched(facts: Facts, party: Party) -> bool:
    """Whether an end's owner says that its programs do nothing that goes wrong."""
    return party.pod is not None and facts.wishes.of(party.pod, party.address, party.port) is Wish.ENABLED


@dataclass(slots=True)
class _Looked:
    at: float
    processes: set[int] = field(default_factory=set)
    why: str = ""


class Suspects:
    """Remembers what programs of a namespace may do that goes wrong: a look takes milliseconds."""

    def __init__(self, ask: Callable[[Iterable[int]], str]) -> None:
        """``ask``: why one of these processes may; "" where none does."""
        self._ask = ask
        self._looked: dict[int, _Looked] = {}

    def why(self, netns: int, processes: Iterable[int], now: float) -> str:
        """Of the processes that are in a namespace (its cookie) now. ``now``: seconds of one clock."""
        there = set(processes)
        looked = self._looked.get(netns)
        if looked is None or now - looked.at >= _AGAIN or (looked.why and there != looked.processes):
            looked = self._looked[netns] = _Looked(now)
        if not looked.why and (new := there - looked.processes):
            looked.why = self._ask(sorted(new))
        looked.processes = there
        return looked.why

    def keep(self, namespaces: set[int]) -> None:
        """Forget all others."""
        for gone in self._looked.keys() - namespaces:
            del self._looked[gone]
