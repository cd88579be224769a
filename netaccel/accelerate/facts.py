# SPDX-License-Identifier: Apache-2.0
"""What the engine has to know of the cluster, as it is at one moment. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from netaccel.accelerate.wishes import Wish, Wishes
from netaccel.model.endpoint import PodKey


@dataclass(frozen=True, slots=True)
class LocalPod:
    """A pod of this node with a network of its own. ``device``: its ifindex on the node, 0 where not found.

    ``shaped``: its bandwidth is bounded, at its device or by annotations.
    """

    key: PodKey
    addresses: tuple[bytes, ...]
    device: int = 0
    shaped: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """``of_node``: the node's own addresses. ``policy``: whether policies are enforced.

    ``draining``: nothing is accelerated any more. ``joining``: new connections may be; else those that are
    go on.
    """

    pods: Mapping[PodKey, LocalPod] = field(default_factory=dict)
    wishes: Wishes = field(default_factory=lambda: Wishes(Wish.AUTO))
    of_node: frozenset[bytes] = frozenset()
    policy: bool = True
    draining: bool = False
    joining: bool = True

    def shaped_at(self, devices: frozenset[int]) -> Facts:
        """The same, where the pods at these devices are shaped too."""
        if devices.isdisjoint(pod.device for pod in self.pods.values()):
            return self
        pods = {
            key: replace(pod, shaped=True) if pod.device in devices else pod for key, pod in self.pods.items()
        }
        return replace(self, pods=pods)
