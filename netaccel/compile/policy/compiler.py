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

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Set
from dataclasses import dataclass

from netaccel.compile.diff import Step
from netaccel.compile.policy.addresses import Addresses, named_ports
from netaccel.compile.policy.assembly import Assembly
from netaccel.compile.policy.catalog import Catalog
from netaccel.compile.policy.changes import Changes, everything
from netaccel.compile.policy.cidrs import Prefixes
from netaccel.compile.policy.codes import ALLOW_ROW, DENY_ROW, SHUT_SUBJECT, Codes
from netaccel.compile.policy.held import Held, Touched
from netaccel.compile.policy.identities import WORLD, CidrClass, Class, Identities, Moves
from netaccel.compile.policy.limits import ROOM, Limits, Use, victim
from netaccel.compile.policy.rules import CompiledPolicy, compile_policy, stricter
from netaccel.compile.policy.selectors import Peers, bits, holds
from netaccel.compile.policy.subjects import SubjectKey, key_of
from netaccel.compile.policy.tables import Image
from netaccel.errors import CapacityError
from netaccel.model.address import Address, Cidr, is_ipv4
from netaccel.model.endpoint import Pod, PodKey
from netaccel.model.event import ObjectKey
from netaccel.model.policy import Direction, PolicyKey
from netaccel.model.snapshot import World
from netaccel.records import IdentityKey, PolicyEndpoint

_ALL = 128
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

    def __init__(self, constants: Mapping[str, int], node_name: str, limits: Limits = ROOM) -> None:
        """``constants``: enumerators of abi.h."""
        self.refused: dict[PolicyKey, str] = {}
        """Policies that do not fit, and why: each denies its subject in its directions."""
        self.closed = ""
        """Why every pod that a policy selects is denied: not even without all policies is there room."""
        self.left_out: frozenset[PodKey] = frozenset()
        """Pods that ``policy_endpoints`` has no room for."""
        self._codes = Codes(constants)
        self._limits = limits
        self._node_name = node_name
        self._held = Held()
        self._begin()

    def _begin(self) -> None:
        """Nothing is compiled."""
        limits, node_name = self._limits, self._node_name
        self._prefixes = Prefixes()
        self._peers = Peers(self._prefixes)
        self._catalog = Catalog(self._prefixes, self._peers)
        self._addresses = Addresses(node_name)
        self._identities = Identities(self._codes.identity_flags)
        self._peers.add(WORLD, self._identities.classes[WORLD])
        self._assembly = Assembly(self._codes, self._catalog, self._peers, limits.policy_rules)
        self._locals: dict[PodKey, Local] = {}
        self._devices: dict[PodKey, int] = {}
        self._endpoints: dict[int, PolicyEndpoint] = {}
        self._moved: set[IdentityKey] = set()
        self._touched_endpoints: set[int] = set()
        self._host: frozenset[Address] = frozenset()
        self._whole = True  # the next steps are from all that the maps hold, not from what was touched
        self._hold()

    # ------------------------------------------------------------------- maps

    def adopt(self, image: Image, *, full: bool = False) -> None:
        """The maps hold this: numbers are taken from it, and the next update starts from there.

        ``full``: one of them was; then pods are shut, what is gone goes first, and they are opened again.
        """
        self._held.replace(image, full=full)
        self._whole = True
        self._hold()

    def _hold(self) -> None:
        """Give no number that the maps hold to anything new."""
        image, numbers = self._held.image, self._identities.numbers
        self._assembly.adopt(image)
        numbers.hold(one.identity for one in image.identities.values())
        for masks in image.peers.values():
            for mask in masks.values():
                numbers.hold(bits(mask))

    @property
    def limits(self) -> Limits:
        """What fits."""
        return self._limits

    def limit(self, limits: Limits) -> None:
        """Other limits for the next update."""
        self._limits = limits

    @property
    def held(self) -> Image:
        """What they hold since the last commit. Read it, don't change it."""
        return self._held.image

    @property
    def selected(self) -> Counter[PolicyKey]:
        """How many of this node's pods each policy selects; without those that select none."""
        return Counter(key for local in self._locals.values() for key in local.selected)

    @property
    def placed(self) -> dict[PodKey, int]:
        """Pods that have an endpoint, with their ifindex."""
        if self.closed:
            return {key: n for key, n in self._devices.items() if n in self._endpoints}
        return {key: one.ifindex for key, one in self._locals.items() if key not in self.left_out}

    @property
    def image(self) -> Image:
        """What the maps shall hold. Read it, don't change it."""
        found = self._assembly
        if self.closed:
            return Image({}, self._codes.fixed_rows(), {}, {}, self._endpoints)
        return Image(found.rules, found.rows, found.peers, self._identities.entries, self._endpoints)

    def commit(self) -> None:
        """All steps of the last update are written."""
        if self._whole:
            self._held.replace(self.image.copy())
        else:
            self._held.carry(self._touched(), self.image)
        self._held.settle(self._lengths())
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
        if self.closed:
            self.closed, changed = "", everything(world)
            self._begin()
        todo = Changes.of(changed)
        again = list(self.refused) if todo.policies or self._whole else []
        self.refused = {} if again else self.refused
        todo.policies.update(again)
        latest = (*again, *todo.policies)
        try:
            self._advance(world, todo, devices, host)
            self._make_room(world, latest)
        except CapacityError as error:
            self._begin_anew(world, latest, str(error))
        return self._steps()

    def _make_room(self, world: World, latest: Collection[PolicyKey]) -> None:
        """Refuse policies until the rest fits. CapacityError where none is left to refuse."""
        while excess := self._use().excess(self._limits):
            key = victim(self._catalog.policies, self.refused.keys(), latest, self._weight)
            if key is None:
                raise CapacityError(excess)
            self.refused[key] = excess
            self._advance(world, Changes(policies={key}), self._devices, self._host)

    def _begin_anew(self, world: World, latest: Collection[PolicyKey], why: str) -> None:
        """There is no room in the middle of it: compile everything, with ever fewer policies."""
        devices, host, count = self._devices, self._host, 1
        while True:
            left = [key for key in (*latest, *sorted(world.policies(), key=str)) if key not in self.refused]
            self._begin()
            if not left:
                self._close(world, devices, host, why)
                return
            self.refused.update(dict.fromkeys(left[:count], why))
            count *= 2
            try:
                self._advance(world, Changes.of(everything(world)), devices, host)
                self._make_room(world, ())
            except CapacityError as error:
                why = str(error)
            else:
                return

    def _close(self, world: World, devices: Mapping[PodKey, int], host: frozenset[Address], why: str) -> None:
        """Deny all to pods that some policy selects: what fits whatever the world is."""
        self.closed = why
        self._take_objects(world, Changes.of(everything(world)))
        self._addresses.put_host(host)
        self._take_devices(devices)
        policies = [compile_policy(policy, world) for policy in world.policies().values()]
        for key, ifindex in sorted(devices.items())[: self._limits.policy_endpoints]:
            pod = self._addresses.pods.get(key)
            if pod is not None and not pod.host_network:
                row = DENY_ROW if any(self._selects(one, pod) for one in policies) else ALLOW_ROW
                flags = sum(self._codes.endpoint_flags) if row == DENY_ROW else 0
                self._endpoints[ifindex] = PolicyEndpoint(SHUT_SUBJECT, WORLD, row, row, flags, *ends(pod))

    def _weight(self, one: CompiledPolicy) -> int:
        """Entries that a policy needs, about."""
        peers = sum(
            self._peers.meant[spec].mask.bit_count()
            for direction in Direction
            for spec in one.specs(direction)
        )
        rules = sum(map(len, one.rules))
        subjects = len(self._assembly.by_policy.get(one.key, ()))
        return subjects * (peers + rules + 1) + sum(1 for _ in one.prefixes())

    def _use(self) -> Use:
        assembly, identities = self._assembly, self._identities
        return Use(
            len(identities.entries),
            assembly.peer_entries,
            assembly.row_entries,
            len(assembly.rules),
            len(identities.numbers),
        )

    def _advance(
        self,
        world: World,
        todo: Changes,
        devices: Mapping[PodKey, int],
        host: frozenset[Address],
    ) -> None:
        """Compile what changed."""
        affected, reselect = self._take_objects(world, todo)
        affected |= self._addresses.put_host(host)
        self._host = host
        reselect |= self._take_devices(devices)
        policies = self._compile(world, todo)
        before = {key: self._catalog.policies.get(key) for key in policies}
        touched = self._catalog.replace(policies)
        wishes = self._held.image.identities if self._whole else {}
        moves = self._identities.move(self._wanted(affected, touched), wishes)
        self._moved |= moves.entries
        users = self._move(moves)
        dirty = self._select(policies)
        new = self._settle(reselect, dirty)
        users |= _stale(before, policies)
        built = self._build(policies, users, new)
        self._place(reselect | dirty, built, moves.entries)

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
        if devices == self._devices:
            return set()
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
            if policy is not None and key in self.refused:
                policy = stricter(policy)
            new = None if policy is None else compile_policy(policy, world)
            if new is None or old is None:
                changed[key] = new
            elif not new.means(old):
                changed[key] = new.keeping(old)
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
                if key.namespace not in ("", pod_key.namespace):
                    continue
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
            held = self._held.image.endpoints.get(ifindex)
            if self._assembly.join(subject, held.subject if held else None):
                new.add(subject)
            self._locals[key] = Local(ifindex, pod, selected, subject)
        for gone in left:
            self._assembly.leave(gone)
        return new

    def _build(self, policies: Iterable[PolicyKey], users: _Users, new: set[SubjectKey]) -> set[int]:
        """Work out the tables that may differ; numbers of the subjects whose they are."""
        assembly = self._assembly
        todo = {(subject, direction) for subject in new for direction in Direction}
        for key in policies:
            assembly.name_rules(key)
        for key, direction in users:
            for subject in assembly.by_policy.get(key, ()):
                if key in subject.policies(direction):
                    todo.add((subject, direction))
        for subject, direction in todo:
            assembly.build(subject, direction)
        return {assembly.subjects.of[subject] for subject, _ in todo}

    def _place(self, pods: Set[PodKey], built: Set[int], moved: Set[IdentityKey]) -> None:
        """The endpoints of local pods: of these, of those with these subjects, of those that moved."""
        before, room = self._endpoints, self._limits.policy_endpoints
        placed = list(self._locals.items())
        if len(placed) > room:
            placed = sorted(placed, key=lambda one: (one[1].ifindex not in before, one[0]))[:room]
        self.left_out = frozenset(self._locals.keys() - dict(placed).keys())
        ends = {key.addr for key in moved if key.prefix_length == _ALL}
        found = {}
        for key, local in placed:
            known = before.get(local.ifindex)
            if (
                known is None
                or key in pods
                or known.subject in built
                or (ends and (known.addr4 in ends or known.addr6 in ends))
            ):
                made = self._endpoint(local)
                if made != known:
                    self._touched_endpoints.add(local.ifindex)
                    known = made
            found[local.ifindex] = known
        self._touched_endpoints |= before.keys() - found.keys()
        self._endpoints = found

    def _endpoint(self, local: Local) -> PolicyEndpoint:
        four, six = ends(local.pod)
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
        return self._held.steps(self.image, self._lengths(), None if self._whole else self._touched())

    def _lengths(self) -> tuple[int, ...]:
        return (_ALL, *(length for length in self._prefixes.lengths if length != _ALL))

    def _touched(self) -> Touched:
        found = self._assembly
        return Touched(
            found.touched_rules,
            found.touched_rows,
            found.touched_peers,
            self._moved,
            self._touched_endpoints,
        )


def _stale(
    before: Mapping[PolicyKey, CompiledPolicy | None], after: Mapping[PolicyKey, CompiledPolicy | None]
) -> _Users:
    """Policies and directions whose tables are to be built again.

    Rules that say the same are the old ones (``keeping``); of no rules there is one tuple for all policies.
    """

    def differ(old: CompiledPolicy | None, new: CompiledPolicy | None, direction: Direction) -> bool:
        if old is None or new is None or new.rules[direction] is not old.rules[direction]:
            return True
        return not new.rules[direction] and not new.says(direction, old)

    return {
        (key, direction)
        for key, new in after.items()
        for direction in Direction
        if differ(before[key], new, direction)
    }


def ends(pod: Pod) -> tuple[bytes, bytes]:
    """A pod's addresses by family, zero where it has none."""
    four = next((address for address in pod.addresses if is_ipv4(address)), _NO_ADDRESS)
    return four, next((address for address in pod.addresses if not is_ipv4(address)), _NO_ADDRESS)
