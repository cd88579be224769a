# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, in two pods of a node, accelerated and not: right answers, no errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench.accelground import CLIENT, SERVER, address_of, laboratory, status_of
from bench.programs import PROGRAMS, Ground
from netaccel.lab.handle import Lab, wait_for

pytestmark = [pytest.mark.root, pytest.mark.timeout(300), pytest.mark.xdist_group("real-programs")]
SETTINGS = {
    "plain": {"peer": "off", "accelerate": "disabled"},
    "socket": {"accelerate": "auto", "accelerate-interval": "0.25"},
}
SECONDS = (2.0, 4.0, 8.0, 16.0)  # a run, until something was accelerated
LEFT_ALONE = {"grpc", "nginx"}
"""Python may splice, wrk asks FIONREAD: they stay with TCP where the kernel's are broken."""


@pytest.fixture(scope="module")
def labs() -> Iterator[dict[str, Lab]]:
    with ExitStack() as stack:
        yield {way: stack.enter_context(laboratory(f"real{way}", each)) for way, each in SETTINGS.items()}


@pytest.mark.parametrize("name", PROGRAMS)
def test_answers_are_right_either_way(labs: dict[str, Lab], name: str) -> None:
    program = PROGRAMS[name]
    if missing := program.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    wait_for(lambda: status_of(labs["socket"]).socket.on, "the self-test", 60)
    before = carried(labs["socket"])
    for way, lab in labs.items():
        with program.serve(Ground(lab, SERVER, CLIENT, address_of(lab))) as ground:
            for seconds in SECONDS:
                outcome = program.load(ground, seconds)
                assert not outcome.errors
                assert outcome.rate
                if way == "plain" or name in LEFT_ALONE or carried(lab) > before:
                    break
            else:
                pytest.fail(f"nothing of {name} went past TCP: {status_of(lab)}")


def carried(lab: Lab) -> int:
    """Bytes that went past TCP, if the tier is on."""
    status = status_of(lab)
    return sum(receipt.bytes for receipt in status.receipts)
