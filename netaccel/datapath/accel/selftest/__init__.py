# SPDX-License-Identifier: Apache-2.0
"""Whether this kernel does what acceleration relies on: tried at the agent's start, by the real programs.

Kernels are judged by what they do, not by their version (docs/acceleration.md). Everything happens on private
maps and in namespaces of its own, and ends with :func:`run`.
"""

from __future__ import annotations

import errno
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from netaccel.datapath.accel.programs import Call
from netaccel.datapath.accel.selftest import bounds, likeness
from netaccel.datapath.accel.selftest.ground import FAMILIES, Ground
from netaccel.datapath.accel.selftest.wire import GENERATION, SurpriseError, Wire
from netaccel.datapath.accel.sockets import AccelSockets
from netaccel.datapath.bpfobject import BpfObject
from netaccel.errors import DatapathError
from netaccel.model.acceleration import Check
from netaccel.records import AccelWanted

BUDGET = 8.0
"""Seconds, after which no trial is begun. All together take half a second on a machine that is not busy."""
_LIMIT = 20.0
"""Seconds, after which the kernel is taken to hang."""
_ENTRIES = 256
"""Of each map: more than the trials need."""
_HZ = 250
"""Any: the private maps of policy are empty, so nothing is refreshed."""

PROGRAMS = "programs"
CALLS = {"fionread-tcp": Call.FIONREAD, "splice": Call.SPLICE}
"""Checks that not all programs depend on: which call goes wrong where they fail."""


class Trial(NamedTuple):
    """``like``: the same is done with plain connections, and both tell the same; else it raises."""

    name: str
    connections: int
    like: Callable[..., likeness.Tale] | None = None
    alone: Callable[..., None] | None = None


TRIALS = (
    Trial("order", 1, like=likeness.order),
    Trial("fionread", 1, like=likeness.fionread),
    Trial("peek", 1, like=likeness.peek),
    Trial("poll", 1, like=likeness.poll),
    Trial("splice-into", 1, like=likeness.splice_into),
    Trial("errno", 3, like=likeness.errors),
    Trial("slow-reader", 2, alone=bounds.slow_reader),
    Trial("half-close", 2, like=likeness.half_close),
    Trial("urgent", 2, like=likeness.urgent),
    Trial("close", 2, like=likeness.close),
    Trial("eviction", 2, alone=bounds.eviction),
    Trial("fionread-tcp", 1, like=likeness.fionread_of_tcp),
    Trial("splice", 1, like=likeness.splice),
)
NAMES = (PROGRAMS, *(trial.name for trial in TRIALS))


class Verdict(NamedTuple):
    """What follows of the checks. ``reason``: why acceleration is off, "" where it is ``on``."""

    on: bool
    reason: str
    broken: frozenset[Call]
    """Connections of programs that may do these stay with TCP."""

    @property
    def may_splice(self) -> bool:
        """Connections of programs that splice(2) may be accelerated too."""
        return self.on and Call.SPLICE not in self.broken


def verdict(checks: Sequence[Check]) -> Verdict:
    """All must be ok, but those of CALLS: where these fail, programs that may do such calls stay with TCP."""
    found = {check.name: check for check in checks}
    for check in checks:
        if not check.ok and check.name not in CALLS:
            return Verdict(
                False, f"this kernel fails the self-test: {check.name}: {check.detail}", frozenset()
            )
    missing = [name for name in NAMES if name not in found]
    if missing:
        return Verdict(False, f"the self-test of this kernel ended before {missing[0]}", frozenset())
    return Verdict(True, "", frozenset(call for name, call in CALLS.items() if not found[name].ok))


def run(obj: BpfObject | None = None) -> list[Check]:
    """Try everything; blocks for half a second, never longer than 20 s. Wants root, as the agent does.

    ``obj``: opened, instead of the package's programs; taken over. A kernel that refuses the programs gives
    one check, ``programs``, with the verifier's line. Nothing is left behind. Never raises for what a kernel
    does.
    """
    found: list[Check] = []
    # A thread of its own, since it can't come back from where it goes.
    thread = threading.Thread(target=_work, args=(found, obj), name="accel-selftest", daemon=True)
    thread.start()
    thread.join(_LIMIT)
    if thread.is_alive():
        done = {check.name for check in found}
        at = next((name for name in NAMES if name not in done), "its end")
        return [*found, Check("time", ok=False, detail=f"the kernel does not come back from: {at}")]
    return found


def _work(found: list[Check], obj: BpfObject | None) -> None:
    with ExitStack() as stack:
        try:
            sockets = _private(obj)
            stack.callback(sockets.close)
            ground = Ground(stack)
            sets = _connect(ground, sockets)
            _enrol(ground, sockets, [wire for each in sets for wires in each.fast for wire in wires])
        except (DatapathError, OSError, SurpriseError) as error:
            found.append(Check(PROGRAMS, ok=False, detail=str(error)))
            return
        found.append(Check(PROGRAMS, ok=True))
        end = time.monotonic() + BUDGET
        for number, trial in enumerate(TRIALS):
            detail = f"not tried: {BUDGET:g} s were over" if time.monotonic() > end else ""
            for each in sets:
                detail = detail or _try(trial, each, number)
            found.append(Check(trial.name, ok=not detail, detail=detail))


def _private(obj: BpfObject | None) -> AccelSockets:
    with ExitStack() as guard:
        opened = guard.enter_context(obj or BpfObject.named("accel_sockets"))
        for name, definition in opened.map_definitions().items():
            if definition.max_entries > _ENTRIES:  # large ones take long to make
                opened.resize(name, _ENTRIES)
        guard.pop_all()
    return AccelSockets.private(_HZ, opened)


class _Set(NamedTuple):
    """The connections of one family: for each trial accelerated ones, and plain ones to compare with."""

    family: str
    fast: list[list[Wire]]
    plain: list[list[Wire]]


def _connect(ground: Ground, sockets: AccelSockets) -> list[_Set]:
    slots = itertools.count()
    sets = []
    for family in ground.families:
        ends = iter(ground.connect(family, 2 * sum(trial.connections for trial in TRIALS)))
        fast = [
            [Wire(next(ends), sockets, next(slots)) for _ in range(trial.connections)] for trial in TRIALS
        ]
        plain = [[Wire(next(ends)) for _ in range(trial.connections)] for trial in TRIALS]
        sets.append(_Set(FAMILIES[family], fast, plain))
    return sets


def _enrol(ground: Ground, sockets: AccelSockets, wires: list[Wire]) -> None:
    """All at once: a look at a namespace costs the more the larger the kernel's table of sockets is."""
    wanted = {
        cookie: AccelWanted(end=2 * wire.slot + side, generation=GENERATION, ifindex=0)
        for wire in wires
        for side, cookie in enumerate(wire.cookies)
    }
    for wire in wires:
        wire.live(on=True)
    results = sockets.enrol(wanted)
    with ground.far():
        results |= sockets.enrol(wanted)
    for cookie in wanted:
        result = results.get(cookie)
        if result is None:
            raise SurpriseError("a socket can't be enrolled: the iterator does not see it")
        if result.error:
            name = errno.errorcode.get(-result.error, str(result.error))
            raise SurpriseError(f"a socket can't be enrolled: {name}, flags {result.flags:#x}")


def _try(trial: Trial, among: _Set, number: int) -> str:
    """What was wrong, "" where nothing was."""
    fast, plain = among.fast[number], among.plain[number]
    try:
        if trial.alone:
            trial.alone(*fast)
        if trial.like:
            _compare(trial.like(*plain), trial.like(*fast))
            for wire in fast:
                if not wire.redirected()[0]:
                    raise SurpriseError("nothing went from socket to socket")
    except SurpriseError as error:
        return f"{among.family}: {error}"
    except (DatapathError, OSError) as error:
        return f"{among.family}: {type(error).__name__}: {error}"
    return ""


def _compare(by_tcp: likeness.Tale, fast: likeness.Tale) -> None:
    for told in list(by_tcp):
        what, wanted = told
        _, got = next(fast, (what, "the end of the trial"))
        if got != wanted:
            raise SurpriseError(f"{what}: {got!r}, and {wanted!r} by TCP")
    next(fast, None)  # what it does after its last word
