# SPDX-License-Identifier: Apache-2.0
"""Who talks to whom: the two ends of a question, as policies see them."""

from __future__ import annotations

from typing import NamedTuple

from netaccel.model.address import Address
from netaccel.model.endpoint import Node, Pod
from netaccel.model.snapshot import World

NAME_LABEL = "kubernetes.io/metadata.name"
"""The API server gives it to every namespace; files have no API server."""


class Party(NamedTuple):
    """One end. At most one of ``pod`` and ``node`` is given; neither: the world.

    A pod on the host's network is its node: NetworkPolicy leaves such pods to the implementation, and
    ClusterNetworkPolicy's peers and subjects never include them.
    """

    address: Address
    pod: Pod | None = None
    node: str = ""
    """Name of the node that has the address."""


class Question(NamedTuple):
    """A flow: who opens it, to whom, and how; after every translation.

    ``protocol``: IP protocol number. ``port``: the destination's; of ICMP and ICMPv6 256 × type + code of
    the first packet; 0 of every other protocol without ports.
    """

    source: Party
    destination: Party
    protocol: int
    port: int


def census(world: World) -> dict[Address, Party]:
    """Who has which address. Where two pods claim one, the one that stays has it; then the first by key."""
    found: dict[Address, Party] = {}
    pods = sorted(world.pods(), key=lambda pod: (pod.terminating, pod.key))
    for pod in pods:
        if not pod.host_network:
            for address in pod.addresses:
                found.setdefault(address, Party(address, pod))
    for node in world.nodes():
        for address in node.all_addresses:
            found.setdefault(address, Party(address, None, node.name))
    for pod in pods:
        for address in pod.addresses:
            found.setdefault(address, Party(address, None, pod.node_name))
    return found


def locate(world: World, address: Address) -> Party:
    """Whose address this is."""
    return census(world).get(address, Party(address))


def party_of_pod(pod: Pod, address: Address) -> Party:
    """A pod that uses one of its addresses."""
    return Party(address, None, pod.node_name) if pod.host_network else Party(address, pod)


def namespace_labels(world: World, name: str) -> dict[str, str]:
    """Labels of a namespace; of one that was not told of, what every namespace has."""
    namespace = world.namespace(name)
    labels = dict(namespace.labels) if namespace else {}
    labels.setdefault(NAME_LABEL, name)
    return labels


def node_labels(world: World, name: str) -> dict[str, str]:
    """Labels of a node; none where it was not told of."""
    node: Node | None = world.node(name)
    return dict(node.labels) if node else {}
