# SPDX-License-Identifier: Apache-2.0
"""Receipts and paths: sums that grow, whatever becomes of slots and agents."""

from __future__ import annotations

import pytest

from netaccel.accelerate import paths, receipts
from netaccel.accelerate.paths import Moved, Paths
from netaccel.accelerate.receipts import Ends, Ledger, Sum
from netaccel.accelerate.view import OTHERS, Carried, Receipt

WEB = Ends("shop/db", "shop/web", "shop/db-0")


def test_a_slot_that_is_used_again_is_counted_on() -> None:
    ledger = Ledger()
    ledger.count(0, 1, WEB, Sum(10, 640, 64, {"unread": 1}))
    ledger.count(0, 1, WEB, Sum(30, 1920, 64, {"unread": 1}))
    ledger.keep([])
    ledger.count(0, 3, WEB, Sum(5, 320, 0, {}))
    assert ledger.receipts() == (Receipt("shop/db", "shop/web", "shop/db-0", 2, 35, 2240, 64, {"unread": 1}),)


def test_a_successor_goes_on() -> None:
    ledger, successor = Ledger("boot"), Ledger("boot")
    ledger.count(0, 1, WEB, Sum(10, 640))
    successor.load(ledger.save())
    successor.count(0, 1, Ends("", "", ""), Sum(15, 960))
    assert successor.receipts() == (Receipt("shop/db", "shop/web", "shop/db-0", 1, 15, 960),)


def test_another_boots_receipts_have_ended() -> None:
    ledger, successor = Ledger("one"), Ledger("two")
    ledger.count(0, 1, WEB, Sum(10, 640))
    successor.load(ledger.save())
    assert successor.receipts() == ()
    with pytest.raises(ValueError, match="no receipts"):
        successor.load(b"{")


def test_rows_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "ROWS", 2)
    ledger = Ledger()
    for slot in range(4):
        ledger.count(slot, 1, Ends("", f"shop/{slot}", "shop/db-0"), Sum(1, 64))
    found = {receipt.client: receipt.bytes for receipt in ledger.receipts()}
    assert found == {OTHERS: 128, "shop/0": 64, "shop/1": 64}


QUAD, MIRRORED = (b"a", 1, b"b", 2), (b"b", 2, b"a", 1)
ENDS = frozenset((7, 8))


def test_both_ends_see_their_own_side() -> None:
    known = Paths()
    known.note(QUAD, ENDS, (0, 1), Moved(1, 10, 2, 20, 3, 4), "socket", 0.0)
    assert known.find(*QUAD) == Carried("socket", 1, 10, 2, 20, 3, 4)
    assert known.find(*MIRRORED) == Carried("socket", 2, 20, 1, 10, 4, 3)
    assert known.find(b"a", 1, b"b", 3) is None


def test_a_connection_that_joins_again_goes_on_and_another_one_does_not() -> None:
    known = Paths()
    known.note(QUAD, ENDS, (0, 1), Moved(1, 10), "socket", 0.0)
    known.note(QUAD, ENDS, (0, 1), Moved(2, 20), "tc", 0.0)
    known.note(QUAD, ENDS, (5, 1), Moved(3, 30), "socket", 0.0)
    assert known.find(*QUAD) == Carried("socket", 5, 50)
    known.note(QUAD, frozenset((8, 9)), (5, 3), Moved(1, 1), "socket", 0.0)
    assert known.find(*QUAD) == Carried("socket", 1, 1)


def test_paths_are_forgotten_after_a_while_and_bounded() -> None:
    known = Paths(most=2)
    for number in range(3):
        known.note((b"a", number, b"b", 2), ENDS, (0, 1), Moved(), "tc", float(number))
    assert known.find(b"a", 0, b"b", 2) is None
    known.forget(paths.KEEP + 1.5)
    assert known.find(b"a", 1, b"b", 2) is None
    assert known.find(b"a", 2, b"b", 2) is not None
