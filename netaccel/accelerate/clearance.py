# SPDX-License-Identifier: Apache-2.0
"""Whether policy has let a pair through: by what it noted of both ends when it judged their packets.

Acceleration never judges. A pair goes past TCP only under a revision of policy under which both ends' own
entries of ``policy_flows`` were judged and let through; after each change of policy its messages go by TCP
until that is so again, and are judged there.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any, Protocol

from netaccel.accelerate.slots import Party
from netaccel.records import PolicyFlow, PolicyFlowKey

WAITING = "not judged yet under the policy in force"
DENIED = "denied by policy"
UNPLACED = "its pod's device is not known"


class Maps(Protocol):
    """What is read here of netaccel.datapath.maps.KernelMaps."""

    def get(self, name: str, key: Any) -> Any:
        """One value, None where it is absent."""
        ...


class Clearance:
    """Reads the node's maps. ``constants``: of abi.h."""

    def __init__(self, maps: Maps, constants: Mapping[str, int]) -> None:
        self._maps = maps
        self._through = {constants["VERDICT_FORWARDED"], constants["VERDICT_AUDITED"]}
        self._denied = constants["POLICY_FLOW_REJECTED"] | constants["POLICY_FLOW_DENIED"]
        self._ingress = constants["POLICY_INGRESS"]

    def revision(self) -> int:
        """Of the policy in force. DatapathError."""
        found = self._maps.get("policy_revision", 0)
        return found.revision if found else 0

    def refuses(self, parties: tuple[Party, Party], revision: int) -> str:
        """Why a pair may not go past TCP under this revision; "" where it may. DatapathError."""
        if not all(party.device for party in parties):
            return UNPLACED
        waiting = ""
        for own, other in (parties, parties[::-1]):
            flow = self._flow(own, other)
            if flow is None or flow.revision != revision:
                waiting = WAITING  # where the other end denies, this one may never be asked again
            elif flow.verdict not in self._through or flow.flags & self._denied:
                return DENIED
        return waiting

    def client(self, parties: tuple[Party, Party]) -> int | None:
        """Which end opened the connection, 0 or 1; None where policy does not know. DatapathError."""
        if not parties[0].device:
            return None
        flow = self._flow(*parties)
        return None if flow is None else int(flow.direction == self._ingress)

    def _flow(self, own: Party, other: Party) -> PolicyFlow | None:
        key = PolicyFlowKey(own.address, other.address, own.port, other.port, socket.IPPROTO_TCP, own.device)
        found: PolicyFlow | None = self._maps.get("policy_flows", key)
        return found
