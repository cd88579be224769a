# SPDX-License-Identifier: Apache-2.0
"""Who has an address: a pod, a node, or nobody that is known.

A pod on a network of its own goes first (where two claim one address, the one that stays, then the first by
key), then this node's own devices, then nodes, and the node of a pod on its network.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from netaccel.compile.policy.identities import Class, NodeClass, PodClass
from netaccel.model.address import Address, Cidr
from netaccel.model.endpoint import Namespace, Node, Pod, PodKey
from netaccel.model.policy import Labels

NAME_LABEL = "kubernetes.io/metadata.name"
"""Every namespace has it: the API server sees to that, and files have none."""

_K = TypeVar("_K")


class Addresses:
    """Claims on addresses. What a change returns are the addresses that may mean something else now."""

    def __init__(self, node_name: str) -> None:
        self.pods: dict[PodKey, Pod] = {}
        self.pods_in: dict[str, set[PodKey]] = {}
        """By namespace, those on the host's network too."""
        self._node_name = node_name
        self._nodes: dict[str, Node] = {}
        self._spaces: dict[str, Labels] = {}
        self._host: frozenset[Address] = frozenset()
        self._of_pods: dict[Address, set[PodKey]] = {}
        self._of_guests: dict[Address, set[PodKey]] = {}
        self._of_nodes: dict[Address, set[str]] = {}
        self._guests_on: dict[str, set[PodKey]] = {}
        self._sorted: list[Address] | None = None

    # ---------------------------------------------------------------- changes

    def put_pod(self, key: PodKey, new: Pod | None) -> set[Address]:
        """A pod is there, or is not any more."""
        old = self.pods.pop(key, None)
        if old is not None:
            self._claim(self._index(old), old.addresses, key, there=False)
            self._place(old, key, there=False)
        if new is not None:
            self.pods[key] = new
            self._claim(self._index(new), new.addresses, key, there=True)
            self._place(new, key, there=True)
        return {address for pod in (old, new) if pod is not None for address in pod.addresses}

    def put_node(self, name: str, new: Node | None) -> set[Address]:
        """A node is there, or is not any more."""
        old = self._nodes.pop(name, None)
        if old is not None:
            self._claim(self._of_nodes, old.all_addresses, name, there=False)
        if new is not None:
            self._nodes[name] = new
            self._claim(self._of_nodes, new.all_addresses, name, there=True)
        affected = {address for node in (old, new) if node is not None for address in node.all_addresses}
        for key in self._guests_on.get(name, ()):
            affected.update(self.pods[key].addresses)
        return affected | self._host if name == self._node_name else affected

    def put_namespace(self, name: str, new: Namespace | None) -> set[Address]:
        """A namespace has labels, or is not there any more."""
        labels = dict(new.labels) if new else {}
        labels.setdefault(NAME_LABEL, name)
        self._spaces[name] = tuple(sorted(labels.items()))
        return {a for key in self.pods_in.get(name, ()) for a in self.pods[key].addresses}

    def put_host(self, addresses: frozenset[Address]) -> set[Address]:
        """This node's devices have these addresses."""
        changed = self._host ^ addresses
        if changed:
            self._host = addresses
            self._sorted = None
        return set(changed)

    def _claim(
        self, index: dict[Address, set[_K]], addresses: Iterable[Address], who: _K, *, there: bool
    ) -> None:
        for address in addresses:
            if there:
                if self._sorted is not None and not self._known(address):
                    insort(self._sorted, address)
                index.setdefault(address, set()).add(who)
                continue
            index[address].discard(who)
            if not index[address]:
                del index[address]
                if self._sorted is not None and not self._known(address):
                    del self._sorted[bisect_left(self._sorted, address)]

    def _index(self, pod: Pod) -> dict[Address, set[PodKey]]:
        return self._of_guests if pod.host_network else self._of_pods

    def _place(self, pod: Pod, key: PodKey, *, there: bool) -> None:
        places = [(self.pods_in, key.namespace)]
        if pod.host_network:
            places.append((self._guests_on, pod.node_name))
        for index, where in places:
            if there:
                index.setdefault(where, set()).add(key)
            else:
                index[where].discard(key)
                if not index[where]:
                    del index[where]

    # -------------------------------------------------------------- questions

    def space(self, name: str) -> Labels:
        """Labels of a namespace, sorted; of one that was not told of, what every namespace has."""
        return self._spaces.get(name) or ((NAME_LABEL, name),)

    def within(self, cidr: Cidr) -> Iterator[Address]:
        """Addresses that somebody has, in a prefix of the 16-byte form."""
        if self._sorted is None:
            self._sorted = sorted({*self._of_pods, *self._of_guests, *self._of_nodes, *self._host})
        last = int.from_bytes(cidr.addr) | (1 << (128 - cidr.length)) - 1
        end = last.to_bytes(16)
        for at in range(bisect_left(self._sorted, cidr.addr), len(self._sorted)):
            if self._sorted[at] > end:
                return
            yield self._sorted[at]

    def class_of(self, address: Address, leaf: Cidr | None) -> Class | None:
        """Whose it is; None: nobody's."""
        keys = self._of_pods.get(address)
        if keys:
            pods = (self.pods[key] for key in keys)
            pod = min(pods, key=lambda one: (one.terminating, one.key)) if len(keys) > 1 else next(pods)
            return PodClass(
                pod.key.namespace, self.space(pod.key.namespace), pod.labels, named_ports(pod), leaf
            )
        name = self._node_of(address)
        if not name:
            return None
        node = self._nodes.get(name)
        labels = tuple(sorted(node.labels)) if node else ()
        return NodeClass(labels, name == self._node_name, leaf)

    def _node_of(self, address: Address) -> str:
        if address in self._host:
            return self._node_name
        names = self._of_nodes.get(address)
        if names:
            return min(names)
        keys = self._of_guests.get(address)
        return self.pods[min(keys)].node_name if keys else ""

    def _known(self, address: Address) -> bool:
        indexes: tuple[Mapping[Address, object], ...] = (self._of_pods, self._of_guests, self._of_nodes)
        return address in self._host or any(address in index for index in indexes)


def named_ports(pod: Pod) -> tuple[tuple[str, int, int], ...]:
    """(name, protocol, number) of a pod's named ports, sorted."""
    if not pod.ports:
        return ()
    return tuple(sorted({(port.name, int(port.protocol), port.port) for port in pod.ports if port.name}))
