# SPDX-License-Identifier: Apache-2.0
"""Modes of frontends: every one carries the flag, and nothing else of maps or passes changes."""

from __future__ import annotations

import pytest
from test_reconcile_engine import CONSTANTS, NODE, WEB, endpoints, service

from netaccel.datapath.fake import FakeMaps
from netaccel.errors import DatapathError
from netaccel.model.event import Synced
from netaccel.reconcile import Engine, Mode

DRAIN, TAKEOVER = CONSTANTS["FRONTEND_DRAIN"], CONSTANTS["FRONTEND_TAKEOVER"]


def running(maps: FakeMaps, mode: Mode) -> Engine:
    engine = Engine(maps, CONSTANTS, NODE, mode)
    engine.take((*WEB, Synced()))
    engine.run()
    return engine


def modes(maps: FakeMaps) -> set[int]:
    return {frontend.flags & (DRAIN | TAKEOVER) for frontend in maps.tables["frontends"].values()}


def everything(maps: FakeMaps) -> dict[str, object]:
    return {name: dict(table) for name, table in maps.tables.items()}


@pytest.mark.parametrize(("mode", "flag"), [(Mode.SERVE, 0), (Mode.DRAIN, DRAIN), (Mode.TAKE_OVER, TAKEOVER)])
def test_frontends_are_written_in_their_mode(mode: Mode, flag: int) -> None:
    maps = FakeMaps()
    engine = running(maps, mode)
    assert modes(maps) == {flag}
    engine.take((service("other", 2), endpoints("other", 4)))
    engine.run()
    assert modes(maps) == {flag}
    engine.request_compare()
    assert engine.run().drift == {}, "a comparison sees nothing amiss"
    assert not engine.due


def test_a_switch_rewrites_frontends_and_nothing_else() -> None:
    maps = FakeMaps()
    engine = running(maps, Mode.SERVE)
    before = everything(maps)
    maps.writes.clear()
    for mode, flag in ((Mode.TAKE_OVER, TAKEOVER), (Mode.DRAIN, DRAIN), (Mode.SERVE, 0)):
        engine.set_mode(mode)
        assert engine.due
        engine.run()
        assert modes(maps) == {flag}
    assert everything(maps) == before
    assert maps.writes.keys() == {"frontends"}
    engine.set_mode(Mode.SERVE)
    assert not engine.due


@pytest.mark.parametrize("there", list(Mode))
@pytest.mark.parametrize("wanted", list(Mode))
def test_a_restart_in_another_mode_adopts_the_rest(there: Mode, wanted: Mode) -> None:
    maps, expected = FakeMaps(), FakeMaps()
    running(maps, there)
    running(expected, wanted)
    running(maps, wanted)
    assert everything(maps) == everything(expected)


def test_a_switch_that_fails_half_way_is_done_again() -> None:
    maps = FakeMaps()
    engine = running(maps, Mode.TAKE_OVER)
    engine.take((service("other", 2), endpoints("other", 4)))
    engine.run()
    engine.set_mode(Mode.SERVE)
    maps.fail_after = 1
    with pytest.raises(DatapathError):
        engine.run()
    assert modes(maps) == {0, TAKEOVER}
    assert engine.due
    engine.run()
    assert modes(maps) == {0}
    assert not engine.due


def test_a_frontend_in_another_mode_is_drift() -> None:
    maps = FakeMaps()
    engine = running(maps, Mode.SERVE)
    table = maps.tables["frontends"]
    key = next(iter(table))
    table[key] = table[key]._replace(flags=table[key].flags | DRAIN)
    engine.request_compare()
    assert engine.run().drift["frontends"] == 1
    assert modes(maps) == {0}


def test_a_switch_together_with_a_comparison_is_no_drift() -> None:
    maps = FakeMaps()
    engine = running(maps, Mode.TAKE_OVER)
    engine.set_mode(Mode.SERVE)
    engine.request_compare()
    assert engine.run().drift == {}
    assert modes(maps) == {0}
