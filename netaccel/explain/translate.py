# SPDX-License-Identifier: Apache-2.0
"""What becomes of a destination before policy sees it: a Service's frontend, and the backends to choose from.

What a node translates is asked of the compiler of Services, which knows the rules of kube-proxy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from netaccel.compile.services import (
    FAMILIES,
    CompiledService,
    Frontend,
    Kind,
    NodeFacts,
    PortGroup,
    Scope,
    compile_service,
)
from netaccel.errors import QuestionError
from netaccel.explain.ends import protocol_name
from netaccel.model.address import Address, Cidr
from netaccel.model.service import Service, ServiceKey
from netaccel.model.snapshot import World
from netaccel.oracle import Party
from netaccel.oracle.match import contains


class Chosen(NamedTuple):
    """A frontend and whom it may lead to (address, port): none, and the flow is refused."""

    service: ServiceKey
    port_name: str
    kind: Kind
    address: Address
    port: int
    protocol: int
    choices: tuple[tuple[Address, int], ...]
    keeps_client: bool
    """Whether only backends of the node that the packet comes to are chosen, so that no SNAT is needed."""
    ranges: tuple[Cidr, ...] | None = None
    """loadBalancerSourceRanges of the family, where they apply."""
    node_allowed: bool = False
    """The node itself is inside."""

    def serves(self, client: Party) -> bool:
        """Whether a client is inside the ranges."""
        if self.ranges is None or (client.node and self.node_allowed):
            return True
        return any(contains(one, client.address) for one in self.ranges)


_At = tuple[Address, int, int]


class Translator:
    """Frontends of every node of one state of the world, compiled when they are first asked for."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._frontends: dict[str, dict[_At, Chosen]] = {}
        self._wire: dict[str, dict[_At, Chosen]] = {}
        self._guarded: dict[str, frozenset[Address]] = {}
        self._compiled: dict[tuple[str, ServiceKey], CompiledService] = {}

    def at(self, node: str, target: _At, *, wire: bool) -> Chosen | None:
        """What this node makes of an address, port and protocol; None: nothing.

        ``wire``: the packet comes from outside the node.
        """
        self._fill(node)
        return (self._wire if wire else self._frontends)[node].get(target)

    def refuses(self, node: str, address: Address) -> bool:
        """Whether an address is a Service's, whose other ports this node refuses."""
        self._fill(node)
        return address in self._guarded[node]

    def service(self, key: ServiceKey) -> Service:
        """The Service. Raises QuestionError where there is none."""
        found = self._world.service(key)
        if found is None:
            raise QuestionError(f"service:{key}: there is no such Service")
        return found

    def frontends(self, key: ServiceKey, node: str, *, wire: bool) -> list[Chosen]:
        """All frontends of a Service as one node has them, cluster IPs first; of a headless one none."""
        compiled = self._compile(key, node)
        return [
            _chosen(compiled, group, frontend, wire=wire)
            for group in compiled.groups
            for frontend in group.frontends
            if not frontend.guards
        ]

    def direct(self, key: ServiceKey, node: str) -> list[Address]:
        """Addresses that the name of a headless Service stands for: those of its ready endpoints."""
        return sorted(
            {one.address for part in self._world.slices(key) for one in part.endpoints if one.ready}
        )

    def _compile(self, key: ServiceKey, node: str) -> CompiledService:
        found = self._compiled.get((node, key))
        if found is None:
            found = compile_service(self.service(key), self._world.slices(key), self._facts(node))
            self._compiled[node, key] = found
        return found

    def _fill(self, node: str) -> None:
        if node in self._frontends:
            return
        local: dict[_At, Chosen] = {}
        wire: dict[_At, Chosen] = {}
        guarded: set[Address] = set()
        keys = sorted(self._world.services(), key=lambda key: (self.service(key).created, key))
        for compiled in (self._compile(key, node) for key in keys):
            for group in compiled.groups:
                for one in group.frontends:
                    if one.kind is Kind.WILDCARD:
                        guarded.add(one.addr)
                    elif not one.guards:  # two claims on one frontend: the older Service has it
                        at = (one.addr, one.port, one.proto)
                        local.setdefault(at, _chosen(compiled, group, one, wire=False))
                        wire.setdefault(at, _chosen(compiled, group, one, wire=True))
        self._frontends[node], self._wire[node] = local, wire
        self._guarded[node] = frozenset(guarded)

    def _facts(self, name: str) -> NodeFacts:
        node = self._world.node(name)
        addresses = node.addresses if node else ()
        return NodeFacts(name, frozenset(addresses), addresses, addresses, node.zone if node else "")


def _chosen(compiled: CompiledService, group: PortGroup, frontend: Frontend, *, wire: bool) -> Chosen:
    scope = frontend.wire if wire else frontend.pod
    ranges = compiled.source_ranges[FAMILIES.index(group.family)] if frontend.source_ranges else None
    return Chosen(
        compiled.key,
        group.port_name,
        frontend.kind,
        frontend.addr,
        frontend.port,
        frontend.proto,
        group.local if scope is Scope.LOCAL else group.cluster,
        keeps_client=scope is Scope.LOCAL,
        ranges=ranges,
        node_allowed=frontend.node_allowed,
    )


def of_port(found: Sequence[Chosen], port: int | str | None, protocol: int | None) -> Iterator[Chosen]:
    """Those frontends that a question means; ``port`` may be a name, None stands for all."""
    for one in found:
        named = port in (None, one.port_name) if not isinstance(port, int) else port == one.port
        if named and protocol in (None, one.protocol):
            yield one


def no_such_port(key: ServiceKey, found: Sequence[Chosen], port: int | str | None) -> QuestionError:
    """What to say where a Service has no such port."""
    ports = ", ".join(sorted({f"{one.port}/{protocol_name(one.protocol)}" for one in found}))
    return QuestionError(f"service:{key}: no port {port}: it has {ports or 'none that is served'}")
