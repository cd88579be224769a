# SPDX-License-Identifier: Apache-2.0
"""From the world to the policy maps, again and again: what changed is compiled, the rest stays.

::

    compiler.adopt(image of the maps)                     at first, and after a write that failed
    for step in compiler.update(world, changed, devices): write it
    compiler.commit()                                     all is written

A pod's arrival touches its address, and where its identity is new the tables of the subjects whose policies
name it. A policy's change touches the subjects that it selects or selected.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from netaccel.compile.diff import Step
from netaccel.compile.policy.addresses import Addresses, named_ports
from netaccel.compile.policy.assembly import Assembly
from netaccel.compile.policy.catalog import Catalog
from netaccel.compile.policy.changes import Changes
from netaccel.compile.policy.cidrs import Prefixes
from netaccel.compile.policy.codes import DENY_ROW, SHUT_SUBJECT, Codes
from netaccel.compile.policy.identities import WORLD, CidrClass, Class, Identities, Moves
from netaccel.compile.policy.rules import CompiledPolicy, compile_policy
from netaccel.compile.policy.selectors import Peers, bits, holds
from netaccel.compile.policy.subjects import SubjectKey, key_of
from netaccel.compile.policy.tables import Danger, Image, Move, Shut, TableKey, steps
from netaccel.model.address import Address, Cidr, is_ipv4
from netaccel.model.endpoint import Pod, PodKey
from netaccel.model.event import ObjectKey
from netaccel.model.policy import Direction, PolicyKey
from netaccel.model.snapshot import World
from netaccel.records import Identity, IdentityKey, PolicyEndpoint

_ALL = 128
_SHUT = Shut(SHUT_SUBJECT, DENY_ROW)
_NO_ADDRESS = bytes(16)
_Users = set[tuple[PolicyKey, Direction]]


@dataclass(slots=True)
class Local:
    """A pod of this node that has a device; ``selected``: policies that select it."""

    ifindex: int
    pod: Pod
    selected: set[PolicyKey]
    subject: SubjectKey


class Compiler:
    """Holds what is compiled and what the maps hold."""

    def __init__(self, constants: Mapping[str, int], node_name: str, rule_ids: int = 1 << 16) -> None:
        """``constants``: enumerators of abi.h. ``rule_ids``: entries of ``policy_rules``."""
        self._codes = Codes(constants)
        self._prefixes = Prefixes()
        self._peers = Peers(self._prefixes)
        self._catalog = Catalog(self._prefixes, self._peers)
        self._addresses = Addresses(node_name)
        self._identities = Identities(self._codes.identity_flags)
        self._peers.add(WORLD, self._identities.classes[WORLD])
        self._assembly = Assembly(self._codes, self._catalog, self._peers, rule_ids)
        self._locals: dict[PodKey, Local] = {}
        self._devices: dict[PodKey, int] = {}
        self._endpoints: dict[int, PolicyEndpoint] = {}
        self._moved: set[IdentityKey] = set()
        self._touched_endpoints: set[int] = set()
        self._held = Image()
        self._held_lengths: tuple[int, ...] = ()
        self._whole = True  # the next steps are from all that the maps hold, not from what was touched

    # ------------------------------------------------------------------- maps

    def adopt(self, image: Image) -> None:
        """The maps hold this: numbers are taken from it, and the next update starts from there."""
        self._held, self._whole = image, True
        lengths = {key.prefix_length for key in image.identities}
        self._held_lengths = tuple(sorted(lengths, reverse=True))
        self._assembly.adopt(image)
        numbers = self._identities.numbers
        numbers.hold(one.identity for one in image.identities.values())
        for masks in image.peers.values():
            for mask in masks.values():
                numbers.hold(bits(mask))

    @property
    def image(self) -> Image:
        """What the maps shall hold. Read it, don't change it."""
        found = self._assembly
        return Image(found.rules, found.rows, found.peers, self._identities.entries, self._endpoints)

    def commit(self) -> None:
        """All steps of the last update are written."""
        image = self.image
        if self._whole:
            self._held = image.copy()
        else:
            held = self._held
            _carry(self._assembly.touched_rules, image.rules, held.rules)
            _carry(self._assembly.touched_rows, image.rows, held.rows)
            _carry(self._assembly.touched_peers, image.peers, held.peers)
            _carry(self._moved, image.identities, held.identities)
            _carry(self._touched_endpoints, image.endpoints, held.endpoints)
        self._held_lengths = self._lengths()
        self._whole = False
        self._moved.clear()
        self._touched_endpoints.clear()
        self._assembly.commit()
        self._identities.numbers.commit()

    # ----------------------------------------------------------------- update

    def update(
        self,
        world: World,
        changed: Set[ObjectKey],
        devices: Mapping[PodKey, int],
        host: frozenset[Address] = frozenset(),
    ) -> list[Step]:
        """What to write, in order. ``changed``: objects that differ from the last update's world.

        ``devices``: ifindex by pod of this node. ``host``: addresses of this node's own devices.
        """
        todo = Changes.of(changed)
        affected, reselect = self._take_objects(world, todo)
        affected |= self._addresses.put_host(host)
        reselect |= self._take_devices(devices)
        policies = self._compile(world, todo)
        touched = self._catalog.replace(policies)
        wishes = self._held.identities if self._whole else {}
        moves = self._identities.move(self._wanted(affected, touched), wishes)
        self._moved |= moves.entries
        users = self._move(moves)
        dirty = self._select(policies)
        new = self._settle(reselect, dirty)
        self._build(policies, users, new)
        self._place()
        return self._steps()

    def _take_objects(self, world: World, todo: Changes) -> tuple[set[Address], set[PodKey]]:
        """Addresses and local pods that something changed for."""
        addresses = self._addresses
        affected: set[Address] = set()
        pods = set(todo.pods)
        for name in todo.namespaces:
            affected |= addresses.put_namespace(name, world.namespace(name))
            pods |= addresses.pods_in.get(name, set())
        for name in todo.nodes:
            affected |= addresses.put_node(name, world.node(name))
        for key in todo.pods:
            affected |= addresses.put_pod(key, world.pod(key))
        return affected, pods & (self._locals.keys() | self._devices.keys())

    def _take_devices(self, devices: Mapping[PodKey, int]) -> set[PodKey]:
        changed = {key for key, ifindex in devices.items() if self._devices.get(key) != ifindex}
        changed |= self._devices.keys() - devices.keys()
        self._devices = dict(devices)
        return changed

    def _compile(self, world: World, todo: Changes) -> dict[PolicyKey, CompiledPolicy | None]:
        """Policies that are other than they were."""
        naming = self._catalog.naming_service
        keys = set(todo.policies)
        for service in todo.services:
            keys |= naming.get(service, set())
        if todo.slices:
            for service, policies in naming.items():
                found = world.service(service)
                if found is not None and not found.selector:
                    keys |= policies
        changed: dict[PolicyKey, CompiledPolicy | None] = {}
        for key in keys:
            policy, old = world.policy(key), self._catalog.policies.get(key)
            new = None if policy is None else compile_policy(policy, world)
            if new is None or old is None or not new.means(old):
                changed[key] = new
        return {key: new for key, new in changed.items() if new or key in self._catalog.policies}

    def _wanted(self, affected: set[Address], touched: set[Cidr]) -> dict[IdentityKey, Class | None]:
        """Classes of addresses and prefixes that may have another one now."""
        wanted: dict[IdentityKey, Class | None] = {}
        for cidr in touched:
            affected.update(self._addresses.within(cidr))
            if cidr.length == _ALL:
                affected.add(cidr.addr)
            else:
                named = cidr in self._prefixes
                wanted[IdentityKey(cidr.length, cidr.addr)] = CidrClass(cidr) if named else None
        for address in affected:
            leaf = self._prefixes.leaf(address)
            found = self._addresses.class_of(address, leaf)
            if found is None and leaf is not None and leaf.length == _ALL:
                found = CidrClass(leaf)
            wanted[IdentityKey(_ALL, address)] = found
        return wanted

    def _move(self, moves: Moves) -> _Users:
        """Bring the peers' masks up to date; the policies that name what came or went."""
        specs = set()
        for number, one in moves.gone.items():
            specs |= self._peers.remove(number, one)
        for number, one in moves.came.items():
            specs |= self._peers.add(number, one)
        naming = self._catalog.naming
        return {user for spec in specs for user in naming.get(spec, ())}

    # --------------------------------------------------------------- subjects

    def _select(self, policies: Mapping[PolicyKey, CompiledPolicy | None]) -> set[PodKey]:
        """Note for each local pod which of these policies select it; the pods that one concerns."""
        dirty: set[PodKey] = set()
        for key, policy in policies.items():
            for pod_key, local in self._locals.items():
                before = key in local.selected
                after = policy is not None and self._selects(policy, local.pod)
                if before or after:
                    dirty.add(pod_key)
                if after:
                    local.selected.add(key)
                else:
                    local.selected.discard(key)
        return dirty

    def _selects(self, policy: CompiledPolicy, pod: Pod) -> bool:
        subject, space = policy.policy.subject, pod.key.namespace
        if subject.namespaces is None:
            if policy.key.namespace != space:
                return False
        elif subject.namespaces and not holds(subject.namespaces, dict(self._addresses.space(space))):
            return False
        return holds(subject.pods, dict(pod.labels))

    def _settle(self, reselect: Set[PodKey], dirty: Set[PodKey]) -> set[SubjectKey]:
        """Give pods their subjects; the subjects that are new."""
        new: set[SubjectKey] = set()
        left: list[SubjectKey] = []
        policies = self._catalog.policies
        for key in sorted(reselect | dirty):
            old = self._locals.pop(key, None)
            if old is not None:
                left.append(old.subject)
            pod, ifindex = self._addresses.pods.get(key), self._devices.get(key)
            if pod is None or ifindex is None or pod.host_network:
                continue
            if old is not None and key not in reselect:
                selected = old.selected
            else:
                selected = {name for name, one in policies.items() if self._selects(one, pod)}
            subject = key_of([policies[name] for name in selected], named_ports(pod))
            held = self._held.endpoints.get(ifindex)
            if self._assembly.join(subject, held.subject if held else None):
                new.add(subject)
            self._locals[key] = Local(ifindex, pod, selected, subject)
        for gone in left:
            self._assembly.leave(gone)
        return new

    def _build(self, policies: Iterable[PolicyKey], users: _Users, new: set[SubjectKey]) -> None:
        """Work out the tables that may differ."""
        assembly = self._assembly
        todo = {(subject, direction) for subject in new for direction in Direction}
        for key in policies:
            assembly.name_rules(key)
            users.update((key, direction) for direction in Direction)
        for key, direction in users:
            for subject in assembly.by_policy.get(key, ()):
                if key in subject.policies(direction):
                    todo.add((subject, direction))
        for subject, direction in todo:
            assembly.build(subject, direction)

    def _place(self) -> None:
        """The endpoints of all local pods."""
        found = {local.ifindex: self._endpoint(local) for _, local in sorted(self._locals.items())}
        before = self._endpoints
        self._touched_endpoints |= before.keys() - found.keys()
        self._touched_endpoints.update(n for n, endpoint in found.items() if before.get(n) != endpoint)
        self._endpoints = found

    def _endpoint(self, local: Local) -> PolicyEndpoint:
        four = next((a for a in local.pod.addresses if is_ipv4(a)), _NO_ADDRESS)
        six = next((a for a in local.pod.addresses if not is_ipv4(a)), _NO_ADDRESS)
        entries = self._identities.entries
        identity = entries.get(IdentityKey(_ALL, four)) or entries.get(IdentityKey(_ALL, six))
        policies = [self._catalog.policies[key] for key in local.selected]
        flags = sum(
            flag
            for direction, flag in zip(Direction, self._codes.endpoint_flags, strict=True)
            if any(policy.denies(direction) for policy in policies)
        )
        ingress, egress = (self._assembly.table(local.subject, direction).default for direction in Direction)
        subject = self._assembly.subjects.of[local.subject]
        number = identity.identity if identity else WORLD
        return PolicyEndpoint(subject, number, ingress, egress, flags, four, six)

    # ------------------------------------------------------------------ steps

    def _steps(self) -> list[Step]:
        old, new, assembly = self._held, self.image, self._assembly
        changed: Collection[TableKey] = assembly.touched_peers
        moved: Iterable[IdentityKey] = self._moved
        if self._whole:
            changed = {*old.peers, *new.peers}
            moved = {key for key, one in new.identities.items() if old.identities.get(key) != one}
            moved |= old.identities.keys() - new.identities.keys()
        moves = {self._identity_move(key) for key in moved}
        danger = Danger(old.peers, new.peers, changed).endangered(
            old.endpoints, new.endpoints, {move for move in moves if move.before != move.after}
        )
        if not self._whole:
            old, new = self._part(old, danger), self._part(new, danger)
        return list(steps(old, new, danger, _SHUT))

    def _identity_move(self, key: IdentityKey) -> Move:
        return Move(
            _longest(self._held.identities, self._held_lengths, key),
            _longest(self._identities.entries, self._lengths(), key),
        )

    def _lengths(self) -> tuple[int, ...]:
        return (_ALL, *(length for length in self._prefixes.lengths if length != _ALL))

    def _part(self, image: Image, danger: Set[int]) -> Image:
        """What was touched of an image."""
        touched = self._assembly
        return Image(
            _some(image.rules, touched.touched_rules),
            _some(image.rows, touched.touched_rows),
            _some(image.peers, touched.touched_peers),
            _some(image.identities, self._moved),
            _some(image.endpoints, self._touched_endpoints | danger),
        )


def _longest(entries: Mapping[IdentityKey, Identity], lengths: Iterable[int], key: IdentityKey) -> int:
    """The identity of an address, or of what of a prefix no longer one has."""
    number = int.from_bytes(key.addr)
    for length in lengths:
        if length <= key.prefix_length:
            shift = _ALL - length
            found = entries.get(IdentityKey(length, (number >> shift << shift).to_bytes(16)))
            if found is not None:
                return found.identity
    return WORLD


def _some(whole: Mapping[Any, Any], keys: Iterable[Any]) -> dict[Any, Any]:
    return {key: whole[key] for key in keys if key in whole}


def _carry(keys: Iterable[Any], new: Mapping[Any, Any], held: dict[Any, Any]) -> None:
    for key in keys:
        if key in new:
            held[key] = new[key]
        else:
            held.pop(key, None)
