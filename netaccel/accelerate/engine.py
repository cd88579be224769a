# SPDX-License-Identifier: Apache-2.0
"""Looks for connections worth accelerating, and takes care of those that are: :meth:`Engine.round`.

Everything here is for one thread, which moves between network namespaces; :mod:`.told` answers others. What
a round costs is measured, and :attr:`Engine.pause` stretched so that rounds take a hundredth of a core.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from netaccel.accelerate import obstacles
from netaccel.accelerate.accounts import Accounts
from netaccel.accelerate.clearance import DENIED
from netaccel.accelerate.evidence import AWAY, PASSING, Absences, Sample, Thresholds, Watch, joins
from netaccel.accelerate.facts import Facts
from netaccel.accelerate.life import Drain, Phase
from netaccel.accelerate.pairing import Pair, pair
from netaccel.accelerate.receipts import Ledger
from netaccel.accelerate.slots import Party, Programs, Slot, Slots
from netaccel.accelerate.visits import Namespace, Visits
from netaccel.errors import DatapathError
from netaccel.model.endpoint import PodKey
from netaccel.records import AccelSeen, AccelWanted

log = logging.getLogger(__name__)

SHARE = 0.01  # of a core, that rounds may take
SAVE = 10.0  # seconds between savings of receipts
WALK = 5.0  # seconds between looks at which processes there are
DRAINING = 0.1  # seconds between rounds while a pair leaves that may leave soon
SOON = 5.0  # seconds in which it should have left
AT_ONCE = 500  # sockets enrolled in one pass; accel_wanted has room for them

FULL = "table full"
CLOSED = "closed"
REFUSED = "refused by the kernel"
DETACHED = "detached"


@dataclass(slots=True)
class Look:
    """What one round saw. ``seen``: by cookie; ``members``: enrolled cookies, read before it."""

    at: float
    seen: dict[int, AccelSeen]
    members: frozenset[int]
    visited: set[int]
    """Cookies of the namespaces that were entered."""


@dataclass(slots=True)
class Account:
    """Counts since the start."""

    promotions: int = 0
    deferred: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    out: Counter[str] = field(default_factory=Counter)


class Clearance(Protocol):
    """What is used here of netaccel.accelerate.clearance.Clearance; it says what each does."""

    def revision(self) -> int:
        """Of policy."""
        ...

    def refuses(self, parties: tuple[Party, Party], revision: int) -> str:
        """Why."""
        ...

    def client(self, parties: tuple[Party, Party]) -> int | None:
        """Which end."""
        ...


class Engine:
    """Of one node. Make it, :meth:`adopt`, then :meth:`round` for ever."""

    def __init__(
        self,
        programs: Programs,
        visits: Visits,
        clearance: Clearance,
        limits: Thresholds,
        ledger: Ledger,
        *,
        may_splice: Callable[[Iterable[int]], str],
        save: Callable[[], None] = lambda: None,
        interval: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``may_splice``: why one of these processes may splice from sockets; "" where none does.
        ``save``: keep the ledger for a successor.
        """
        self.slots = Slots(programs)
        self.account = Account()
        self.accounts = Accounts(programs, ledger)
        self.pause = interval
        self.facts = Facts()
        self.unreachable: dict[PodKey, str] = {}
        self.programs, self.visits = programs, visits
        self._clearance, self._limits = clearance, limits
        self._suspects = obstacles.Suspects(may_splice)
        self._save, self._saved = save, 0.0
        self._interval, self._clock = interval, clock
        self._absences = Absences(limits)
        self._samples: dict[int, tuple[float, Sample]] = {}
        self._why: dict[int, str] = {}
        self._walked, self._walk_at = -1.0, 0.0
        self._turn = 0
        self.orphans: dict[int, Drain] = {}
        """Enrolled sockets that are no pair's, by cookie."""
        self.queued = 0
        """Bytes that wait at receivers, at the last look."""

    def adopt(self) -> int:
        """Take over what an earlier agent left; how many pairs go on. DatapathError."""
        found = self.slots.adopt(self._clock())
        self.orphans = {cookie: Drain() for cookie in self.slots.orphans}
        return found

    def round(self, facts: Facts) -> None:
        """Look, and do what follows. DatapathError."""
        spent = time.thread_time()
        facts = self.facts = facts.shaped_at(self.visits.shaped)
        look = self._look(facts)
        self.accounts.read(self.slots.used.values())
        self._recognise(look)
        self._drain(look)
        self._watch(look)
        self.accounts.take(self.slots.used.values(), look.at)
        enrolled = self.slots.enrolled
        self.queued = sum(one.queued for cookie, one in look.seen.items() if cookie in enrolled)
        if not facts.draining:
            self._arm()
        if facts.joining and not facts.draining:
            self._promote(look)
        self._samples = {cookie: (look.at, _sample(one)) for cookie, one in look.seen.items()}
        self._absences.keep(set(look.seen))
        self._suspects.keep({one.cookie for one in self.visits.there.values()})
        self._stretch(time.thread_time() - spent)

    def suspect_anew(self) -> None:
        """Programs may do otherwise, or other things go wrong, than was known before."""
        self._suspects.keep(set())

    def drained(self) -> bool:
        """Whether nothing is enrolled any more."""
        return not self.slots.used and not self.orphans

    def why(self, cookie: int) -> str:
        """Why a socket that the last looks saw is not accelerated; "" where nothing was said of it."""
        return self._why.get(cookie, "")

    def _stretch(self, spent: float) -> None:
        soon = [
            slot for slot in self.slots.used.values() if slot.phase is Phase.STOPPED and not slot.deferred
        ]
        self.pause = DRAINING if soon else max(self._interval, spent / SHARE)

    # ------------------------------------------------------------------ looking

    def _look(self, facts: Facts) -> Look:
        now = self._clock()
        if now >= self._walk_at:
            self._walk(now)
        self._meet()
        members = frozenset(self.programs.members())
        self._turn += 1
        look = Look(now, {}, members, set())
        strangers = bool(self.orphans)
        homes: set[int] = set()
        for party in [party for slot in self.slots.used.values() for party in slot.parties]:
            homes.add(party.netns)
            strangers = strangers or not party.netns
        for namespace in list(self.visits.there.values()):
            wanted = namespace.cookie in homes or strangers
            if namespace.pod is not None and not facts.draining:
                wanted = self.visits.busy(namespace, self._limits.rate, now, self._turn) or wanted
            if wanted:
                self._enter(namespace, look)
        self._enter_others(look)
        return look

    def meet_again(self) -> None:
        """Find pods whose processes came since the last walk."""
        self._walk(self._clock())
        self._meet()

    def _meet(self) -> None:
        self.visits.meet(self.facts.pods)
        self.unreachable = self.visits.unreachable(self.facts.pods)

    def _walk(self, now: float) -> None:
        spent = time.thread_time()
        self.visits.walk()
        self._walked, self._walk_at = now, now + max(WALK, (time.thread_time() - spent) / SHARE)

    def _enter_others(self, look: Look) -> None:
        """Where the other ends are of what was seen; they were taken for not busy."""
        places = self.visits.places(self.facts.pods)
        homes = {address: netns for netns, place in places.items() for address in place.addresses}
        for netns in {homes.get(one.dst, 0) for one in look.seen.values()} - look.visited - {0}:
            if (home := self._home(netns)) is not None:
                self._enter(home, look)

    def _enter(self, namespace: Namespace, look: Look) -> None:
        try:
            found = self.visits.inside(namespace, self.programs.scan)
        except DatapathError as error:
            log.debug("namespace %d: %s", namespace.inode, error)
            return
        if found is not None:
            look.visited.add(namespace.cookie)
            look.seen.update((one.cookie, one) for one in found)

    def _recognise(self, look: Look) -> None:
        """Give pairs that were taken over their namespaces and pods."""
        pods = {one.cookie: one.pod for one in self.visits.there.values()}
        for slot in self.slots.used.values():
            if all(party.netns for party in slot.parties):
                continue
            parties = [self._known(party, look, pods) for party in slot.parties]
            slot.parties = (parties[0], parties[1])
            if all(party.netns for party in parties):
                slot.inside = parties[0].netns == parties[1].netns
                self._name(slot)

    def _known(self, party: Party, look: Look, pods: Mapping[int, PodKey | None]) -> Party:
        found = look.seen.get(party.cookie)
        return party if found is None else party._replace(netns=found.netns, pod=pods.get(found.netns))

    def _name(self, slot: Slot) -> None:
        """Find out who opened the connection, and to which Service."""
        first, second = slot.parties
        services = self.facts.wishes.services
        at = [services.get((party.address, party.port), ()) for party in slot.parties]
        client = None if slot.inside else self._clearance.client(slot.parties)
        if client is None:
            client = int(bool(at[0]) or (not at[1] and first.port < second.port))
        slot.client = client
        slot.service = str(at[1 - client][0]) if at[1 - client] else ""

    # ------------------------------------------------------------------ leaving

    def _drain(self, look: Look) -> None:
        drained: list[Slot] = []
        for slot in list(self.slots.used.values()):
            if slot.phase is not Phase.STOPPED:
                continue
            first, second = self.slots.sights(slot, look.seen, look.members)
            if slot.drain.look(first, second):
                drained.append(slot)
            elif look.at - slot.since > SOON and not slot.deferred:
                slot.deferred = True
                self.account.deferred += 1
        for slot in drained:
            self.accounts.close(slot, look.at)
        if drained or look.at - self._saved >= SAVE:  # what a slot counted is gone when it is free
            self._save()
            self._saved = look.at
        for slot in drained:
            self.slots.free(slot)
        for cookie, drain in list(self.orphans.items()):
            sight = self.slots.sight(cookie, look.seen, look.members)
            if drain.look(sight, sight):
                self.programs.remove([cookie])
                del self.orphans[cookie]

    def _watch(self, look: Look) -> None:
        """Let those leave that do not pay, or may not stay."""
        for slot in list(self.slots.used.values()):
            if slot.phase is not Phase.LIVE:
                continue
            if reason := self._must_leave(slot, look):
                if reason == PASSING:
                    self._absences.left(_ends(slot), look.at)
                self._stop(slot, reason)

    def _must_leave(self, slot: Slot, look: Look) -> str:
        if self.facts.draining:
            return DETACHED
        if not look.members.issuperset(slot.cookies):
            return CLOSED
        if not all(party.netns for party in slot.parties):
            return ""  # taken over, and not found yet
        if reason := self._opposed(slot.parties) or self._suspected(slot.parties, look.at):
            return reason
        seen = [found for cookie in slot.cookies if (found := look.seen.get(cookie))]
        for one in seen:
            if reason := obstacles.of_socket(one.flags, self.programs.constants, enrolled=True):
                return reason
        counted = self.accounts.counted(slot)
        if slot.watch is None:
            slot.watch = Watch(look.at, counted, self._limits)
            return ""
        return slot.watch.leaves(look.at, counted)

    def _opposed(self, parties: tuple[Party, Party]) -> str:
        """What owners have against it; "" for nothing."""
        for party in parties:
            if reason := obstacles.of_owner(self.facts, party.pod, party.address, party.port):
                return reason
        return ""

    def _suspected(self, parties: tuple[Party, Party], now: float) -> str:
        """Whether programs of either pod may do what goes wrong past TCP."""
        for party in parties:
            if not obstacles.vouched(self.facts, party):
                home = self._home(party.netns)
                if self._suspects.why(party.netns, home.processes if home else (), now):
                    return obstacles.SPLICES
        return ""

    def _stop(self, slot: Slot, reason: str) -> None:
        self.account.out[reason] += 1  # before it is seen to be no longer live
        self.slots.stop(slot, reason, self._clock())

    # ------------------------------------------------------------------ joining

    def _arm(self) -> None:
        """After a change of policy: let those go on that it lets through."""
        revision = self._clearance.revision()
        for slot in list(self.slots.used.values()):
            if slot.phase is not Phase.LIVE or slot.revision == revision:
                continue
            reason = self._refused_by_policy(slot.parties, slot.inside, revision)
            if reason == DENIED:
                self._stop(slot, reason)
            elif not reason:
                self.slots.arm(slot, revision)

    def _refused_by_policy(self, parties: tuple[Party, Party], inside: bool, revision: int) -> str:
        if inside or not self.facts.policy:
            return ""
        return self._clearance.refuses(parties, revision)

    def _promote(self, look: Look) -> None:
        pods = self.facts.pods
        unreached = {address for key in self.unreachable for address in pods[key].addresses}
        places = self.visits.places(pods)
        found = pair(look.seen.values(), places, self.facts.of_node, unreached)
        enrolled = self.slots.enrolled | self.orphans.keys()
        why = dict(found.alone)
        revision = self._clearance.revision()
        taken: list[Slot] = []
        for one in found.pairs:
            if enrolled.isdisjoint((one.first, one.second)):
                parties = self._parties(one, look)
                if reason := self._consider(parties, one.inside, look, revision):
                    why.update(dict.fromkeys((one.first, one.second), reason))
                else:
                    taken.append(
                        self.slots.take(parties, self._clock(), inside=one.inside, revision=revision)
                    )
        for slot in self._enrol(taken):
            why.update(dict.fromkeys(slot.cookies, REFUSED))
        self.account.refused = Counter(found.alone.values())
        self.account.refused.update(why[p.first] for p in found.pairs if why.get(p.first))
        self._why = why

    def _consider(self, parties: tuple[Party, Party], inside: bool, look: Look, revision: int) -> str:
        """Why a pair is not to be enrolled; "" where it is."""
        ends = (look.seen[parties[0].cookie], look.seen[parties[1].cookie])
        return (
            self._opposed(parties)
            or next((why for end in ends if (why := self.obstacle(end))), "")
            or self._no_evidence(ends, look.at)
            or (AWAY if self._absences.away((ends[0].cookie, ends[1].cookie), look.at) else "")
            or self._suspected(parties, look.at)
            or self._refused_by_policy(parties, inside, revision)
            or ("" if self.slots.has_room() else FULL)
            or self._suspected_now(parties, look.at)
        )

    def _suspected_now(self, parties: tuple[Party, Party], now: float) -> str:
        """Of the programs that are there now, since one may have come after the last walk."""
        if self._walked < now:
            self._walk(now)
        return self._suspected(parties, now)

    def obstacle(self, end: AccelSeen) -> str:
        """What of a socket keeps it with TCP; "" for nothing."""
        return obstacles.of_socket(end.flags, self.programs.constants)

    def _no_evidence(self, ends: tuple[AccelSeen, AccelSeen], now: float) -> str:
        before = [self._samples.get(end.cookie, (now, _sample(end))) for end in ends]
        samples = (before[0][1], before[1][1])
        return joins(samples, (_sample(ends[0]), _sample(ends[1])), now - before[0][0], self._limits)

    def _parties(self, one: Pair, look: Look) -> tuple[Party, Party]:
        first, second = look.seen[one.first], look.seen[one.second]
        return self._party(first, one.inside), self._party(second, one.inside)

    def _party(self, end: AccelSeen, inside: bool) -> Party:
        home = self._home(end.netns)
        pod = home.pod if home else None
        known = self.facts.pods.get(pod) if pod else None
        device = known.device if known and not inside else 0
        return Party(end.cookie, end.netns, pod, end.src, end.sport, device)

    def _enrol(self, taken: list[Slot]) -> list[Slot]:
        """Enrol pairs; those that the kernel refused. Each step may be the last one: see :mod:`.slots`.

        Namespace by namespace: the kernel walks the whole machine's connections each time.
        """
        joined = self._enrol_in_namespaces(taken)
        refused = []
        for slot in taken:
            if joined.issuperset(slot.cookies):
                self.slots.go_live(slot)
                self._name(slot)
                slot.watch = Watch(self._clock(), self.accounts.counted(slot), self._limits)
                self.account.promotions += 1
            else:
                self.slots.stop(slot, REFUSED, self._clock())
                self._absences.left(_ends(slot), self._clock())
                refused.append(slot)
        return refused

    def _enrol_in_namespaces(self, taken: list[Slot]) -> set[int]:
        """Cookies of the sockets that are enrolled."""
        wanted: dict[int, dict[int, AccelWanted]] = {}
        for slot in taken:
            for side, party in enumerate(slot.parties):
                wanted.setdefault(party.netns, {}).update(self.slots.wanted(slot, side))
        joined: set[int] = set()
        for netns, of_home in wanted.items():
            home, sockets = self._home(netns), list(of_home.items())
            for first in range(0, len(sockets), AT_ONCE):
                joined |= self._join(home, dict(sockets[first : first + AT_ONCE]))
        return joined

    def _join(self, home: Namespace | None, wanted: dict[int, AccelWanted]) -> set[int]:
        """Enrol sockets of one namespace; cookies of those that are."""
        try:
            found = self.visits.inside(home, lambda: self.programs.enrol(wanted)) if home else None
        except DatapathError as error:
            log.debug("%d sockets are not enrolled: %s", len(wanted), error)
            return set()
        return {cookie for cookie, result in (found or {}).items() if not result.error}

    def _home(self, netns: int) -> Namespace | None:
        return self.visits.at.get(netns)


def _sample(seen: AccelSeen) -> Sample:
    return Sample(seen.sent_segments, seen.sent_bytes)


def _ends(slot: Slot) -> tuple[int, int]:
    first, second = sorted(slot.cookies)
    return first, second
