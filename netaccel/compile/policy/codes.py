# SPDX-License-Identifier: Apache-2.0
"""Constants of abi.h as the policy compiler needs them, and the numbers that always mean the same."""

from __future__ import annotations

from collections.abc import Mapping

from netaccel.compile.policy.rows import WHOLE, Actions, Row
from netaccel.model.policy import Action, Kind
from netaccel.records import PolicyVerdict

ALLOW_ROW, DENY_ROW, FIRST_ROW = 1, 2, 3
"""Rows that are always there: no policy says anything; what does not fit is denied. The others follow."""
SHUT_SUBJECT, FIRST_SUBJECT = 1, 2
"""The subject of endpoints that are shut for the moment: no peer has a row of it. The others follow."""
ISOLATION_NUMBER = 0xFFFF
"""``number`` of the entry that stands for a policy's isolation."""


class Codes:
    """Numbers by what they stand for."""

    def __init__(self, constants: Mapping[str, int]) -> None:
        self.actions = Actions(constants)
        self.identity_flags = (
            constants["IDENTITY_HOST"],
            constants["IDENTITY_NODE"],
            constants["IDENTITY_POD"],
        )
        self.endpoint_flags = (constants["ENDPOINT_INGRESS"], constants["ENDPOINT_EGRESS"])
        self.kinds = {
            Kind.NETWORK: constants["KIND_NETWORK_POLICY"],
            Kind.CLUSTER_NETWORK: constants["KIND_CLUSTER_NETWORK_POLICY"],
            Kind.TRAFFIC: constants["KIND_TRAFFIC_POLICY"],
            Kind.CLUSTER_TRAFFIC: constants["KIND_CLUSTER_TRAFFIC_POLICY"],
        }
        self.written = {
            Action.ALLOW: constants["RULE_ALLOW"],
            Action.DROP: constants["RULE_DROP"],
            Action.REJECT: constants["RULE_REJECT"],
            Action.PASS: constants["RULE_PASS"],
            Action.MONITOR: constants["RULE_MONITOR"],
        }
        self.isolation = constants["RULE_ISOLATION"]

    def fixed_rows(self) -> dict[int, Row]:
        """ALLOW_ROW and DENY_ROW."""
        allow = PolicyVerdict(0, 0, self.actions.allow, self.actions.allow, 0, 0)
        deny = PolicyVerdict(0, 0, self.actions.drop, self.actions.drop, 1, 1)
        return {ALLOW_ROW: (((WHOLE, 0, 0), allow),), DENY_ROW: (((WHOLE, 0, 0), deny),)}
