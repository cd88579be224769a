# SPDX-License-Identifier: Apache-2.0
"""An engine over a kernel and namespaces that a test makes up; its clock goes when it is told to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from netaccel.accelerate.engine import Engine
from netaccel.accelerate.evidence import Thresholds
from netaccel.accelerate.facts import Facts, LocalPod
from netaccel.accelerate.pairing import Place
from netaccel.accelerate.receipts import Ledger
from netaccel.accelerate.visits import Namespace
from netaccel.accelerate.wishes import Wish, Wishes
from netaccel.model.address import parse_address
from netaccel.model.endpoint import PodKey
from netaccel.records import AccelEnd, AccelPair, AccelResult, AccelSeen, AccelWanted

FREE, STOPPED, LIVE = range(3)
FLAGS = ("NONBLOCK", "ULP", "LOWAT", "FILTER", "ZEROCOPY", "FOREIGN", "ENROLLED", "BUSY", "UNREAD", "CLOSING")
CONSTANTS = {"ACCEL_FREE": FREE, "ACCEL_STOPPED": STOPPED, "ACCEL_LIVE": LIVE} | {
    f"ACCEL_{name}": 1 << bit for bit, name in enumerate(FLAGS)
}
A, B = parse_address("10.0.1.5"), parse_address("10.0.2.5")
PODS = {
    PodKey("shop", "a"): LocalPod(PodKey("shop", "a"), (A,), 3),
    PodKey("shop", "b"): LocalPod(PodKey("shop", "b"), (B,), 4),
}


def zero(record: Any) -> Any:
    """A record of zeros."""
    return record(*(bytes(16) if "bytes" in str(hint) else 0 for hint in record.__annotations__.values()))


@dataclass
class Socket:
    """One that the kernel has. Each round it sends ``busy`` segments, by TCP or past it."""

    cookie: int
    netns: int
    src: bytes
    dst: bytes
    sport: int
    dport: int
    flags: int = CONSTANTS["ACCEL_NONBLOCK"]
    segments: int = 50
    busy: int = 200
    passing: int = 0
    error: int = 0
    """Of an attempt to enrol it."""


@dataclass
class Kernel:
    """Implements netaccel.accelerate.slots.Programs."""

    sockets: dict[int, Socket] = field(default_factory=dict)
    capacity: int = 4
    constants: Mapping[str, int] = field(default_factory=lambda: CONSTANTS)
    slots: dict[int, AccelPair] = field(default_factory=dict)
    table: dict[int, AccelEnd] = field(default_factory=dict)
    enrolled: dict[int, int] = field(default_factory=dict)  # cookie: end
    here: int = 0
    revision: int = 1

    def run(self) -> None:
        """A second goes by."""
        for one in self.sockets.values():
            number = self.enrolled.get(one.cookie)
            pair = self.slots.get(number // 2) if number is not None else None
            if number is None or pair is None or pair.state != LIVE or pair.revision != self.revision:
                one.segments += one.busy
                if number in self.table:
                    self._count(number, pass_policy=one.busy)
                continue
            self._count(number, sent_messages=one.busy - one.passing, pass_unread=one.passing)

    def _count(self, number: int, **more: int) -> None:
        end = self.table[number]
        self.table[number] = end._replace(**{name: getattr(end, name) + n for name, n in more.items()})

    def scan(self, *, everything: bool = False) -> list[AccelSeen]:
        return [
            zero(AccelSeen)._replace(
                cookie=one.cookie,
                netns=one.netns,
                src=one.src,
                dst=one.dst,
                sport=one.sport,
                dport=one.dport,
                flags=one.flags,
                sent_segments=one.segments,
                sent_bytes=64 * one.segments,
            )
            for one in self.sockets.values()
            if one.netns == self.here
        ]

    def enrol(self, wanted: Mapping[int, AccelWanted]) -> dict[int, AccelResult]:
        results = {}
        for cookie, want in wanted.items():
            if cookie in self.sockets and self.sockets[cookie].netns == self.here:
                error = self.sockets[cookie].error
                results[cookie] = AccelResult(cookie, error, 0)
                if not error:
                    self.enrolled[cookie] = want.end
                    self.table[want.end] = zero(AccelEnd)._replace(cookie=cookie)
        return results

    def pairs(self) -> dict[int, AccelPair]:
        return dict(self.slots)

    def ends(self) -> dict[int, AccelEnd]:
        return dict(self.table)

    def end(self, number: int) -> AccelEnd:
        found: AccelEnd = self.table.get(number, zero(AccelEnd))
        return found

    def write_pairs(self, pairs: Mapping[int, AccelPair]) -> None:
        self.slots.update(pairs)

    def members(self) -> set[int]:
        return set(self.enrolled)

    def remove(self, cookies: Iterable[int]) -> None:
        for cookie in cookies:
            self.enrolled.pop(cookie, None)

    def forget(self, slot: int) -> None:
        self.table.pop(2 * slot, None)
        self.table.pop(2 * slot + 1, None)

    def close(self) -> None:
        pass

    def state(self) -> list[int]:
        """Of the slots."""
        return [pair.state for _, pair in sorted(self.slots.items())]


@dataclass
class Places:
    """Implements what the engine uses of Visits: two pods' namespaces, 1 and 2."""

    kernel: Kernel
    shaped: frozenset[int] = frozenset()
    there: dict[int, Namespace] = field(
        default_factory=lambda: {
            n: Namespace(n, (100 + n,), cookie=n, pod=pod) for n, pod in enumerate(PODS, 1)
        }
    )
    shut: set[int] = field(default_factory=set)

    @property
    def at(self) -> dict[int, Namespace]:
        return self.there

    def walk(self) -> None:
        pass

    def meet(self, pods: object) -> None:
        pass

    def unreachable(self, pods: object) -> dict[PodKey, str]:
        return {}

    def places(self, pods: Mapping[PodKey, LocalPod]) -> dict[int, Place]:
        return {
            n: Place(one.pod, pods[one.pod].addresses) for n, one in self.there.items() if one.pod in pods
        }  # type: ignore[index]

    def busy(self, *_: object) -> bool:
        return True

    def inside(self, namespace: Namespace, action: Callable[[], Any]) -> Any:
        if namespace.cookie in self.shut:
            return None
        self.kernel.here = namespace.cookie
        return action()


@dataclass
class Policy:
    """Lets everything through, or says why not."""

    kernel: Kernel
    says: str = ""

    def revision(self) -> int:
        return self.kernel.revision

    def refuses(self, parties: object, revision: int) -> str:
        return self.says

    def client(self, parties: object) -> int | None:
        return 0


class Ground:
    """One engine; :meth:`pass_time` is a second and a round."""

    def __init__(self, pairs: int = 1) -> None:
        self.kernel = Kernel()
        self.places, self.policy = Places(self.kernel), Policy(self.kernel)
        self.now = 100.0
        self.facts = Facts(PODS, Wishes(Wish.AUTO))
        self.splices: Collection[int] = ()
        for number in range(pairs):
            self.connect(number)
        self.engine = self.agent()

    def connect(self, number: int) -> None:
        first, second = 10 * number + 10, 10 * number + 11
        self.kernel.sockets[first] = Socket(first, 1, A, B, 4000 + number, 80)
        self.kernel.sockets[second] = Socket(second, 2, B, A, 80, 4000 + number)

    def agent(self) -> Engine:
        """A new one, over what the kernel has."""
        engine = Engine(
            self.kernel,
            self.places,  # type: ignore[arg-type]
            self.policy,
            Thresholds(),
            Ledger(),
            may_splice=lambda pids: "it may" if set(pids) & set(self.splices) else "",
            clock=lambda: self.now,
        )
        engine.adopt()
        return engine

    def pass_time(self, seconds: int = 1) -> None:
        for _ in range(seconds):
            self.kernel.run()
            self.now += 1.0
            self.engine.round(self.facts)
