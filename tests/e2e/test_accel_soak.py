# SPDX-License-Identifier: Apache-2.0
"""The soak of acceleration, made short: a real agent, pods, and every byte of theirs checked."""

from __future__ import annotations

import pytest

from bench.soakaccel import soak
from tests.kernels import needs

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(600),
    pytest.mark.xdist_group("load"),  # those that take all processors run one after the other
    needs.acceleration,
]
CONNECTIONS, AT_ONCE, PACE = 600, 150, 2


def test_receipts_are_what_tcp_did_not_carry() -> None:
    report = soak(CONNECTIONS, AT_ONCE, PACE, kills=False)
    print(report.line())
    assert not report.outcome.bad, report.outcome.complaints
    assert report.outcome.client.connections == CONNECTIONS
    found = report.outcome
    assert found.redirected > 0
    assert found.redirected <= report.told <= found.redirected + found.refused


def test_an_agent_that_is_killed_again_and_again_costs_no_byte() -> None:
    report = soak(CONNECTIONS, AT_ONCE, PACE)
    print(report.line())
    assert not report.outcome.bad, report.outcome.complaints
    assert report.outcome.client.connections == CONNECTIONS
    # what the killed one had not written down is lost
    assert report.told <= report.outcome.redirected + report.outcome.refused
