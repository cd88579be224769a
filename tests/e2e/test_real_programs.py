# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, in two pods of a node, accelerated and not: right answers, no errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench.accelground import CLIENT, SERVER, VOUCHED, address_of, laboratory, status_of
from bench.programs import PROGRAMS, Ground
from bench.soakaccel import settled
from netaccel.lab.handle import Lab, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(600), pytest.mark.xdist_group("real-programs")]
SLOW = {"accelerate-rate": "10"}  # a busy machine may not do more
SETTINGS = {
    "plain": {"peer": "off", "accelerate": "disabled"},
    "auto": {"accelerate": "auto", "accelerate-interval": "0.25", **SLOW},
    "vouched": {**VOUCHED, **SLOW},
}
SECONDS = (2.0, 4.0, 8.0, 16.0)  # a run, until something was accelerated


@pytest.fixture(scope="module")
def labs() -> Iterator[dict[str, Lab]]:
    with ExitStack() as stack:
        yield {way: stack.enter_context(laboratory(f"real{way}", each)) for way, each in SETTINGS.items()}


@pytest.mark.parametrize("name", PROGRAMS)
def test_answers_are_right_either_way(labs: dict[str, Lab], name: str) -> None:
    """What may do what goes wrong past TCP (Python splices, wrk asks FIONREAD) wants its owner's word."""
    program = PROGRAMS[name]
    if missing := program.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    with program.serve(Ground(labs["plain"], SERVER, CLIENT, address_of(labs["plain"]))) as ground:
        outcome = program.load(ground, SECONDS[0])
        assert outcome.rate
        assert not outcome.errors
    lab = labs["vouched" if program.vouched else "auto"]
    wait_for(lambda: settled(lab), "the self-test, and no connection of another program", 120)
    before = carried(lab)
    with program.serve(Ground(lab, SERVER, CLIENT, address_of(lab))) as ground:
        for seconds in SECONDS:
            outcome = program.load(ground, seconds)
            assert outcome.rate
            assert not outcome.errors
            if carried(lab) > before or not program.accelerated:
                break
        else:
            pytest.fail(f"nothing of {name} went past TCP: {status_of(lab)}")


def carried(lab: Lab) -> int:
    """Bytes that went past TCP, if the tier is on."""
    status = status_of(lab)
    return sum(receipt.bytes for receipt in status.receipts)
