# SPDX-License-Identifier: Apache-2.0
"""Whether policy has let a pair through."""

from __future__ import annotations

from typing import Any

import pytest

from netaccel.accelerate.clearance import DENIED, UNPLACED, WAITING, Clearance
from netaccel.accelerate.slots import Party
from netaccel.model.address import parse_address
from netaccel.records import PolicyFlow, PolicyFlowKey, PolicyRevision

CONSTANTS = {
    "VERDICT_FORWARDED": 0,
    "VERDICT_DROPPED": 1,
    "VERDICT_AUDITED": 2,
    "POLICY_FLOW_REJECTED": 2,
    "POLICY_FLOW_DENIED": 32,
    "POLICY_INGRESS": 0,
}
A, B = parse_address("10.0.1.5"), parse_address("10.0.2.5")
PAIR = (Party(10, 1, None, A, 4000, 3), Party(11, 2, None, B, 80, 4))
KEYS = (PolicyFlowKey(A, B, 4000, 80, 6, 3), PolicyFlowKey(B, A, 80, 4000, 6, 4))


class Maps(dict[Any, Any]):
    def get(self, name: Any, key: Any = None) -> Any:
        return super().get((name, key))


def flow(revision: int = 7, verdict: int = 0, flags: int = 0, direction: int = 1) -> PolicyFlow:
    zero = PolicyFlow(*[0] * len(PolicyFlow._fields))
    return zero._replace(revision=revision, verdict=verdict, flags=flags, direction=direction)


def judged(*flows: PolicyFlow | None) -> Clearance:
    entries: dict[Any, Any] = {
        ("policy_flows", key): one for key, one in zip(KEYS, flows, strict=True) if one
    }
    return Clearance(Maps({**entries, ("policy_revision", 0): PolicyRevision(7, 0)}), CONSTANTS)


@pytest.mark.parametrize(
    ("flows", "reason"),
    [
        ((flow(), flow(direction=0)), ""),
        ((flow(verdict=2), flow()), ""),
        ((flow(6), flow()), WAITING),
        ((flow(), None), WAITING),
        ((flow(), flow(verdict=1)), DENIED),
        ((flow(flags=2), flow()), DENIED),
        ((flow(6), flow(flags=32)), DENIED),
        ((flow(6), flow(6, verdict=1)), WAITING),
    ],
)
def test_both_ends_must_be_let_through_under_this_revision(
    flows: tuple[PolicyFlow | None, ...], reason: str
) -> None:
    found = judged(*flows)
    assert found.refuses(PAIR, found.revision()) == reason
    assert found.refuses(PAIR[::-1], found.revision()) == reason


def test_a_pod_without_a_device_is_not_let_through() -> None:
    assert judged(flow(), flow()).refuses((PAIR[0], PAIR[1]._replace(device=0)), 7) == UNPLACED


def test_who_opened_it() -> None:
    assert judged(flow(direction=1), flow(direction=0)).client(PAIR) == 0
    assert judged(flow(direction=1), flow(direction=0)).client(PAIR[::-1]) == 1
    assert judged(None, None).client(PAIR) is None
