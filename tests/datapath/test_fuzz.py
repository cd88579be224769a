# SPDX-License-Identifier: Apache-2.0
"""Random and mutated frames through every program: whatever comes, never a wrong rewrite.

A frame leaves as it came, or is dropped and counted, or is answered, or is translated as its tuple says
with checksums as right or wrong as they were. ``NETACCEL_FUZZ_FRAMES`` and ``NETACCEL_FUZZ_SEED`` search
further than the default.
"""

from __future__ import annotations

import errno
import os
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pytest
from mutate import from_pod, mutants, snat_answers, well_formed
from nodeport import Site
from oracle import answer_fault, rewrite_fault
from programs import TC_REDIRECT, TC_SHOT, TC_UNSPEC

from netaccel.datapath import libbpf
from netaccel.records import FlowKey

pytestmark = pytest.mark.root

FRAMES = int(os.environ.get("NETACCEL_FUZZ_FRAMES", "30000"))
SEED = int(os.environ.get("NETACCEL_FUZZ_SEED", "1"))
XDP_DROP, XDP_PASS, XDP_TX = 1, 2, 3
PROGRAMS = ("xdp_uplink", "tc_uplink_ingress", "tc_uplink_egress", "tc_pod_ingress", "tc_pod_egress")
LIMIT_INTERVAL = 200  # frames between two resets of the limiter of answers


class Fuzz:
    """The programs of one node, frames through them, and what became of the frames."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.maps = site.tc_uplink
        self.programs = site.tc_uplink.programs | site.xdp_uplink.programs | site.tc_pod.programs
        self.ifindex = site.net.ifindex("node", "eth0")
        self.seen: Counter[str] = Counter()

    def run(self, program: str, frame: bytes) -> tuple[int, bytes] | None:
        """Verdict and frame; None where the kernel takes no such frame for a test run."""
        if program == "xdp_uplink":
            context = struct.pack("=6I", 0, len(frame), 0, self.ifindex, 0, 0)  # struct xdp_md
        else:
            context = struct.pack("=40xI148x", self.ifindex)  # struct __sk_buff
        room = len(frame) + 2048
        try:
            result = libbpf.test_run(self.programs[program], frame, context, 1, 0, 0, room)
        except OSError as error:
            if error.errno == errno.EINVAL and len(frame) < 14 + 40:
                return None
            raise
        return result[0], result[1]

    def check(self, program: str, frame: bytes) -> None:
        result = self.run(program, frame)
        if result is None:
            self.seen["too short"] += 1
            return
        verdict, out = result
        kind, fault = (
            self.judge_xdp(verdict, frame, out)
            if program == "xdp_uplink"
            else self.judge_tc(verdict, frame, out)
        )
        self.seen[f"{program} {kind}"] += 1
        self.seen["dropped"] += kind in {"dropped", "answered"}
        assert not fault, f"{program}: {fault}\nverdict {verdict}\nin  {frame.hex()}\nout {out.hex()}"

    def check_all(self, frames: Iterable[bytes], programs: Sequence[str] = PROGRAMS) -> None:
        def work() -> None:
            for number, frame in enumerate(frames):
                if number % LIMIT_INTERVAL == 0:
                    self.maps.zero("limiter")
                for program in programs:
                    self.check(program, frame)

        self.site.net.inside("node", work)

    def judge_xdp(self, verdict: int, frame: bytes, out: bytes) -> tuple[str, str]:
        if verdict == XDP_DROP:
            return "dropped", ""
        if verdict == XDP_PASS and out == frame:
            return "untouched", ""
        if verdict in {XDP_PASS, XDP_TX}:
            return "translated", rewrite_fault(frame, out)
        return "none", "no verdict of ours"

    def judge_tc(self, verdict: int, frame: bytes, out: bytes) -> tuple[str, str]:
        if verdict == TC_SHOT:
            return "dropped", ""
        if verdict == TC_UNSPEC and out == frame:
            return "untouched", ""
        if verdict == TC_UNSPEC:
            return "translated", rewrite_fault(frame, out)
        if verdict != TC_REDIRECT:
            return "none", "no verdict of ours"
        fault = rewrite_fault(frame, out)
        if not fault:
            return "translated", ""
        other = answer_fault(frame, out)
        return "answered", other and f"as a rewrite: {fault}; as an answer: {other}"

    def drops(self) -> int:
        return sum(
            self.maps.dropped(name) for name in self.maps.abi.enums["drop_reason"] if name != "DROP_REASONS"
        )

    def snat_ports(self) -> dict[tuple[bool, int], list[int]]:
        found: dict[tuple[bool, int], list[int]] = {}
        for table in ("flows4", "flows6"):
            for key in self.maps.keys(table):
                assert isinstance(key, FlowKey)
                if key.direction == self.maps.abi.constants["FLOW_REVERSE"] and key.dport >= 61000:
                    found.setdefault((table == "flows6", key.proto), []).append(key.dport)
        return found


@pytest.fixture(scope="module")
def fuzz() -> Iterator[Fuzz]:
    with Site(xdp=True) as site:
        neighbour = "lladdr 02:00:00:00:00:09 dev eth0 nud permanent"
        for address in ("192.0.2.1", "2001:db8:a::1"):
            site.net.ip("node", f"neigh replace {address} {neighbour}")
        made = Fuzz(site)
        made.check_all(from_pod(), ["tc_pod_ingress"])  # before an uplink would take them for its own
        yield made


def test_well_formed_frames_meet_all_that_programs_do(fuzz: Fuzz) -> None:
    """Without this, the next test could pass by nothing ever being translated."""
    fuzz.check_all(well_formed())
    fuzz.check_all(snat_answers(fuzz.snat_ports()))
    for program in PROGRAMS:
        assert fuzz.seen[f"{program} untouched"]
        assert fuzz.seen[f"{program} translated"], fuzz.seen
    for program in ("tc_uplink_ingress", "tc_pod_ingress"):
        assert fuzz.seen[f"{program} answered"]
    assert fuzz.maps.counter("COUNTER_ICMP_TRANSLATED")


def test_mutated_frames_are_never_rewritten_wrongly(fuzz: Fuzz) -> None:
    seeds = well_formed()
    fuzz.check_all(seeds)
    ports = {kind: numbers[:20] for kind, numbers in fuzz.snat_ports().items()}
    before, fuzz.seen = fuzz.drops(), Counter()
    fuzz.check_all(mutants(seeds + snat_answers(ports), FRAMES, SEED))
    assert fuzz.drops() - before == fuzz.seen["dropped"], "a drop is counted once, and nothing else is"
