# SPDX-License-Identifier: Apache-2.0
"""One rule of any kind, and what it says where a peer or a port of it can't be resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from netaccel.model.policy import Action, Peer, Port, Rule, UnknownPeer


@dataclass(slots=True)
class Warnings:
    """Warnings of one policy, collected while it is read: (field path, what about it)."""

    found: list[tuple[str, str]] = field(default_factory=list)

    def say(self, path: str, text: str) -> None:
        """One more."""
        self.found.append((path, text))


_CLOSED = {
    Action.ALLOW: "the rule allows nothing",
    Action.DROP: "the rule denies everything",
    Action.REJECT: "the rule denies everything",
    Action.PASS: "the rule denies everything",
    Action.MONITOR: "the rule means everything",
}


def rule(
    action: Action,
    peers: Sequence[Peer] | None,
    ports: Sequence[Port] | None,
    name: str,
    warnings: Warnings,
) -> Rule:
    """A rule; one with an unknown peer fails closed (design: Policy, bad objects).

    An Allow matches nothing then, all others every peer and port; a Pass denies.
    """
    unknown = tuple(peer for peer in peers or () if isinstance(peer, UnknownPeer))
    for peer in unknown:
        warnings.say(peer.path, f"{peer.reason}; until then {_CLOSED[action]}")
    if not unknown:
        every = None if ports is None else tuple(dict.fromkeys(ports))
        return Rule(action, None if peers is None else tuple(dict.fromkeys(peers)), every, name)
    if action is Action.ALLOW:
        return Rule(action, unknown, None, name)
    return Rule(Action.DROP if action is Action.PASS else action, unknown, None, name)
