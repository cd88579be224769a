# SPDX-License-Identifier: Apache-2.0
"""What the engine does with connections: over a kernel that is made up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from accelengine import CONSTANTS, FREE, LIVE, STOPPED, Ground

from netaccel.accelerate import clearance, engine, evidence, obstacles, told
from netaccel.accelerate.view import OTHERS, Totals
from netaccel.accelerate.wishes import Wish, Wishes
from netaccel.model.endpoint import PodKey
from netaccel.records import AccelPair

UNREAD = CONSTANTS["ACCEL_UNREAD"]
FIRST, SECOND = 10, 11


@pytest.fixture
def ground() -> Ground:
    """One pair that is live."""
    made = Ground()
    made.pass_time()
    assert made.kernel.state() == [], "one look proves nothing"
    made.pass_time()
    assert made.kernel.state() == [LIVE]
    return made


def test_a_pair_joins_by_two_looks_and_stays(ground: Ground) -> None:
    ground.pass_time(30)
    assert ground.kernel.state() == [LIVE]
    assert ground.engine.account.promotions == 1
    receipt = ground.engine.accounts.ledger.receipts()[0]
    assert (receipt.client, receipt.server, receipt.messages) == ("shop/a", "shop/b", 2 * 200 * 30)


def test_a_pair_whose_messages_pass_leaves_and_stays_away_for_longer_each_time(ground: Ground) -> None:
    ground.kernel.sockets[FIRST].passing = 150
    ground.pass_time()
    assert ground.kernel.state() == [STOPPED]
    ground.pass_time(2)
    assert ground.kernel.state() == [FREE]
    assert ground.engine.why(FIRST) == evidence.AWAY
    ground.pass_time(7)
    assert ground.engine.account.promotions == 1
    ground.pass_time(2)
    assert ground.engine.account.promotions == 2
    ground.pass_time(15)
    assert ground.engine.account.promotions == 2, "twice as long"
    assert ground.engine.account.out == {evidence.PASSING: 2}


def test_a_reader_that_does_not_read_defers_it_once(ground: Ground) -> None:
    ground.kernel.sockets[SECOND].flags |= UNREAD
    ground.facts = replace(ground.facts, wishes=Wishes(Wish.DISABLED))
    ground.pass_time(60)
    assert ground.kernel.state() == [STOPPED]
    assert ground.kernel.members() == {FIRST, SECOND}
    assert ground.engine.account.deferred == 1
    ground.kernel.sockets[SECOND].flags &= ~UNREAD
    ground.pass_time()
    assert ground.kernel.state() == [FREE]
    assert not ground.kernel.members()
    assert ground.engine.account.out == {obstacles.DISABLED: 1}


def test_why_a_pair_leaves_is_told_as_soon_as_it_is_not_live(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others ask while the engine's thread is in the kernel."""
    found: list[Totals] = []
    write = ground.kernel.write_pairs

    def asked(pairs: Mapping[int, AccelPair]) -> None:
        found.append(told.totals(ground.engine))
        write(pairs)

    monkeypatch.setattr(ground.kernel, "write_pairs", asked)
    ground.facts = replace(ground.facts, wishes=Wishes(Wish.DISABLED))
    ground.pass_time()
    assert [(one.live, one.out) for one in found] == [(0, {obstacles.DISABLED: 1})]


def test_a_namespace_that_cant_be_entered_defers_it_too(ground: Ground) -> None:
    ground.places.shut.add(2)
    ground.facts = replace(ground.facts, draining=True)
    ground.pass_time(20)
    assert ground.kernel.members() == {FIRST, SECOND}
    assert not ground.engine.drained()
    ground.places.shut.clear()
    ground.pass_time(2)
    assert ground.engine.drained()


def test_after_a_change_of_policy_it_waits_until_both_ends_were_judged(ground: Ground) -> None:
    ground.kernel.revision, ground.policy.says = 2, clearance.WAITING
    ground.pass_time(3)
    assert ground.kernel.slots[0].revision == 1
    assert ground.kernel.state() == [LIVE], "messages that pass meanwhile are not held against it"
    ground.policy.says = ""
    ground.pass_time()
    assert ground.kernel.slots[0].revision == 2
    ground.kernel.revision, ground.policy.says = 3, clearance.DENIED
    ground.pass_time()
    assert ground.engine.account.out == {clearance.DENIED: 1}


def test_the_table_may_be_full() -> None:
    ground = Ground(pairs=6)
    ground.pass_time(3)
    assert ground.kernel.state() == [LIVE] * 4
    assert ground.engine.account.refused == {engine.FULL: 2}
    for cookie in (FIRST, SECOND):
        del ground.kernel.sockets[cookie], ground.kernel.enrolled[cookie]
    ground.pass_time(5)
    assert ground.engine.account.promotions == 5, "a slot that is free is used again"


def test_what_the_kernel_refuses_leaves_nothing_behind() -> None:
    ground = Ground()
    ground.kernel.sockets[SECOND].error = -16
    ground.pass_time(2)
    assert ground.engine.account.refused == {engine.REFUSED: 1}
    assert ground.kernel.state() == [STOPPED]
    ground.pass_time(2)
    assert ground.kernel.state() == [FREE]
    assert not ground.kernel.members()
    assert ground.engine.account.promotions == 0


@pytest.mark.parametrize(
    ("flag", "reason"), [("ULP", "kTLS, MPTCP or their like"), ("FOREIGN", "in another tool's sockmap")]
)
def test_sockets_that_are_special_stay_with_tcp(flag: str, reason: str) -> None:
    ground = Ground()
    ground.kernel.sockets[SECOND].flags |= CONSTANTS[f"ACCEL_{flag}"]
    ground.pass_time(3)
    assert ground.kernel.state() == []
    assert ground.engine.why(FIRST) == reason


def test_blocking_sockets_stay_with_tcp() -> None:
    ground = Ground()
    ground.kernel.sockets[FIRST].flags = 0
    ground.pass_time(3)
    assert ground.engine.why(SECOND) == obstacles.BLOCKING


def test_programs_that_may_splice_stay_with_tcp_unless_their_owner_vouches() -> None:
    ground = Ground()
    ground.splices = {102}
    ground.pass_time(3)
    assert ground.engine.why(FIRST) == obstacles.SPLICES
    ground.facts = replace(ground.facts, wishes=Wishes(Wish.AUTO, {PodKey("shop", "b"): Wish.ENABLED}))
    ground.pass_time()
    assert ground.kernel.state() == [LIVE]


def test_a_program_that_comes_later_and_may_splice_ends_it(ground: Ground) -> None:
    ground.splices = {103}
    ground.places.there[1].processes += (103,)
    ground.pass_time()
    assert ground.engine.account.out == {obstacles.SPLICES: 1}


def test_the_next_agent_takes_over_and_removes_what_is_nobodys(ground: Ground) -> None:
    ground.connect(7)
    ground.kernel.enrolled[80] = 99
    ground.engine = ground.agent()
    ground.pass_time(3)
    assert ground.kernel.state()[0] == LIVE
    assert ground.engine.account.promotions <= 1
    assert ground.engine.accounts.ledger.receipts()[0].client == "shop/a"
    assert not ground.engine.orphans


def test_a_socket_that_is_closed_ends_its_pair(ground: Ground) -> None:
    del ground.kernel.sockets[FIRST], ground.kernel.enrolled[FIRST]
    ground.pass_time(4)
    assert ground.kernel.state() == [FREE]
    assert ground.engine.account.out == {engine.CLOSED: 1}
    assert not ground.kernel.members()


def test_what_a_pair_carried_counts_though_it_ended_while_no_agent_was_there(ground: Ground) -> None:
    ground.pass_time(5)
    carried = sum(end.sent_messages for end in ground.kernel.table.values())
    for cookie in (FIRST, SECOND):
        del ground.kernel.sockets[cookie], ground.kernel.enrolled[cookie]
    ground.engine = ground.agent()
    ground.pass_time(4)
    assert ground.kernel.state() == [FREE]
    (receipt,) = ground.engine.accounts.ledger.receipts()
    assert (receipt.client, receipt.messages) == (OTHERS, carried)


def test_a_program_that_came_since_the_last_walk_is_seen_before_its_connection_joins() -> None:
    ground = Ground()
    ground.pass_time()
    ground.splices = (103,)
    ground.places.walk = lambda: setattr(ground.places.there[1], "processes", (101, 103))  # type: ignore[method-assign]
    ground.pass_time()
    assert ground.kernel.state() == []
    assert ground.engine.account.refused == {obstacles.SPLICES: 1}


def test_who_asks_for_a_pod_that_just_came_need_not_wait_for_the_next_walk(ground: Ground) -> None:
    late = ground.places.there.pop(2)
    ground.places.unreachable = lambda pods: {} if 2 in ground.places.there else {PodKey("shop", "b"): "late"}  # type: ignore[method-assign]
    ground.pass_time()
    assert ground.engine.unreachable
    ground.places.walk = lambda: ground.places.there.update({2: late})  # type: ignore[method-assign]
    ground.engine.meet_again()
    assert not ground.engine.unreachable


def test_before_the_kernel_was_tried_pairs_are_looked_after_and_none_joins(ground: Ground) -> None:
    ground.connect(7)
    ground.facts = replace(ground.facts, joining=False)
    ground.kernel.revision = 2
    ground.pass_time(3)
    assert ground.kernel.state() == [LIVE]
    assert ground.kernel.slots[0].revision == 2
    ground.facts = replace(ground.facts, joining=True)
    ground.splices = {102}
    ground.engine.suspect_anew()
    ground.pass_time()
    assert ground.engine.account.out == {obstacles.SPLICES: 1}
