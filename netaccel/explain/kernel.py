# SPDX-License-Identifier: Apache-2.0
"""What the kernel says: the program of pods' devices, run on the first packet of a flow that nobody sends.

Each node that is asked about gets a private instance of ``tc_pod`` with the constant ``dry_run``, over maps
of its own that the compiler of policies has filled: nothing is pinned, nothing attached, and the programs
write no map but ``dry_run``, through which they are asked and answer. It needs root, and no agent.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from netaccel.compile.diff import Write
from netaccel.compile.policy.changes import everything
from netaccel.compile.policy.compiler import Compiler
from netaccel.datapath.abi import Codec
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.bpfobject import BpfObject, Program
from netaccel.datapath.maps import KernelMaps
from netaccel.errors import DatapathError
from netaccel.explain.packet import first_packet
from netaccel.model.endpoint import PodKey
from netaccel.model.event import ObjectKey
from netaccel.model.policy import NO_RULE, Action, Direction, Kind, PolicyKey, RuleRef
from netaccel.model.snapshot import World
from netaccel.oracle import Exempt, Judgement, Outcome, Question
from netaccel.oracle.judge import ALLOWED, exemption
from netaccel.records import DryRun, PolicyRevision, PolicyRule

OBJECT = "tc_pod"
PROGRAMS = {Direction.EGRESS: "tc_pod_ingress", Direction.INGRESS: "tc_pod_egress"}
"""What a pod sends comes in at its device's other end."""
_POLICY_MAPS = ("policy_rules", "policy_rows", "policy_peers", "identities", "policy_endpoints")
_ROOM = 16
"""Entries of maps that a dry run reads and that are empty here."""
_INSTANCES = 128
"""Nodes kept at once: an instance holds half a megabyte of maps, and takes a third of a second to load."""
_DESCRIPTORS = 50
"""Of one instance, with some to spare; and what the process has beside them."""
_BLANK = bytes(16)


class Kernel:
    """Asks the programs about one state of the world. Implements Judge; close it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._changed = everything(world)
        self._instances: OrderedDict[str, DryInstance] = OrderedDict()
        self._most = _instances()

    def ask(self, direction: Direction, question: Question) -> Judgement | None:
        """The program's verdict; None of a pod that is on no node. DatapathError where it fails."""
        pod = (question.destination if direction is Direction.INGRESS else question.source).pod
        if pod is None:
            return Judgement(ALLOWED, ALLOWED, Exempt.NO_POD)
        if not pod.node_name:
            return None
        return self._instance(pod.node_name).ask(direction, question, pod.key)

    def why_unknown(self, direction: Direction, question: Question) -> str:
        """Of a pod that is on no node, or has no device there."""
        pod = (question.destination if direction is Direction.INGRESS else question.source).pod
        if pod is None or not pod.node_name:
            return "the Pod is on no node: give it spec.nodeName"
        return f"the Pod has no device on {pod.node_name}: give it an address (status.podIPs)"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free all instances."""
        while self._instances:
            self._instances.popitem()[1].close()

    def _instance(self, node: str) -> DryInstance:
        found = self._instances.pop(node, None)
        if found is None:
            if len(self._instances) >= self._most:
                self._instances.popitem(last=False)[1].close()
            found = DryInstance(self._world, self._changed, node)
        self._instances[node] = found
        return found


class DryInstance:
    """One node's programs and maps. Devices are numbered as they come: nothing has these numbers."""

    def __init__(self, world: World, changed: frozenset[ObjectKey] | set[ObjectKey], node: str) -> None:
        """Compile the node's policy, load the programs, fill the maps. Raises DatapathError."""
        pods = [pod for pod in world.pods(node) if not pod.host_network and pod.addresses]
        self.devices: dict[PodKey, int] = {pod.key: number for number, pod in enumerate(pods, 1)}
        self._object = BpfObject.named(OBJECT)
        try:
            self._constants = self._object.abi.constants
            tables = _compile(world, changed, node, self.devices, self._constants)
            self._load(tables)
        except BaseException:
            self._object.close()
            raise

    def _load(self, tables: Mapping[str, Mapping[object, object]]) -> None:
        one = self._object
        for name, definition in one.map_definitions().items():
            if definition.max_entries > _ROOM:
                one.resize(name, max(len(tables.get(name, ())), _ROOM))
        one.set_constant("settings", {"policy": 1, "dry_run": 1})
        one.load()
        maps = {name: one.map(name) for name in (*_POLICY_MAPS, "policy_revision")}
        written = KernelMaps(maps, one.abi)
        try:
            for name in _POLICY_MAPS:
                if tables[name]:
                    written.write(name, list(tables[name].items()))
            written.write("policy_revision", [(0, PolicyRevision(1, 0))])
        finally:
            written.close()
        self._dry = DryMap(one)
        self._programs = {way: one.program(name) for way, name in PROGRAMS.items()}
        self._names = RuleNames(tables["policy_rules"], self._constants)  # type: ignore[arg-type]

    def ask(self, direction: Direction, question: Question, pod: PodKey) -> Judgement | None:
        """Run the program once; None of a pod without a device."""
        device = self.devices.get(pod)
        if device is None:
            return None
        answer = self._dry.run(self._programs[direction], device, first_packet(question))
        return self._names.judgement(answer, exemption(direction, question))

    def close(self) -> None:
        """Free programs and maps."""
        self._dry.close()
        self._object.close()


class DryMap:
    """The map through which an instance is asked, and answers."""

    def __init__(self, loaded: BpfObject) -> None:
        self._map: KernelMap = loaded.map("dry_run")
        self._codec: Codec = loaded.abi.maps["dry_run"].value
        self._key = bytes(4)
        self._asked: dict[int, bytes] = {}

    def run(self, program: Program, device: int, frame: bytes) -> DryRun:
        """What would become of a frame at a pod's device."""
        asked = self._asked.get(device)
        if asked is None:
            asked = self._asked[device] = self._codec.pack(_asked(device))
        self._map.update(self._key, asked)
        program.test_run(frame, room=0)
        answer = self._map.lookup(self._key)
        assert answer is not None, "an array has every entry"
        found: DryRun = self._codec.unpack(answer)
        return found

    def close(self) -> None:
        """Close the map."""
        self._map.close()


class RuleNames:
    """From answers of the programs to judgements: names of rules, words of the model for numbers."""

    def __init__(self, rules: Mapping[int, PolicyRule], constants: Mapping[str, int]) -> None:
        """``rules``: the map ``policy_rules``. ``constants``: enumerators of abi.h."""
        self._rules = rules
        self._kinds = {
            constants["KIND_NETWORK_POLICY"]: Kind.NETWORK,
            constants["KIND_CLUSTER_NETWORK_POLICY"]: Kind.CLUSTER_NETWORK,
            constants["KIND_TRAFFIC_POLICY"]: Kind.TRAFFIC,
            constants["KIND_CLUSTER_TRAFFIC_POLICY"]: Kind.CLUSTER_TRAFFIC,
        }
        self._actions = {
            constants["POLICY_ALLOW"]: Action.ALLOW,
            constants["POLICY_DROP"]: Action.DROP,
            constants["POLICY_REJECT"]: Action.REJECT,
        }
        self._isolation = constants["RULE_ISOLATION"]
        carried = ("DROP_NONE", "DROP_POLICY_DENIED", "DROP_POLICY_REJECTED", "DROP_POLICY_ISOLATED")
        self._verdicts = {constants[name] for name in carried}
        self._reasons = {
            number: name for name, number in constants.items() if name.startswith("DROP_POLICY_")
        }
        self._outcomes: dict[tuple[int, int], Outcome] = {}

    def judgement(self, answer: DryRun, exempt: Exempt | None) -> Judgement:
        """What an answer says. DatapathError where the packet is dropped for what is no policy's verdict."""
        if answer.reason not in self._verdicts:
            name = self._reasons.get(answer.reason, str(answer.reason))
            raise DatapathError(f"the kernel drops it for {name}: its tables are not what they should be")
        enforced = self._outcome(answer.action, answer.rule)
        if enforced.allowed != (answer.reason == 0):
            raise DatapathError(f"the kernel says {enforced.action.value} and drop reason {answer.reason}")
        shadow = self._outcome(answer.shadow, answer.shadow_rule)
        plain = enforced == shadow == ALLOWED
        return Judgement(enforced, shadow, exempt if plain else None)

    def _outcome(self, action: int, rule: int) -> Outcome:
        found = self._outcomes.get((action, rule))
        if found is None:
            found = self._outcomes[action, rule] = self._named(self._actions[action], rule)
        return found

    def _named(self, action: Action, number: int) -> Outcome:
        if not number:
            return Outcome(action is Action.ALLOW, action)
        rule = self._rules.get(number)
        if rule is None:
            raise DatapathError(f"the kernel names rule {number}, which policy_rules lacks")
        isolated = rule.action == self._isolation
        key = PolicyKey(self._kinds[rule.kind], rule.namespace, rule.name)
        ref = RuleRef(key, Direction(rule.direction), NO_RULE if isolated else rule.number)
        return Outcome(action is Action.ALLOW, action, ref, isolated)


def _instances() -> int:
    """How many the process may have; its limit of open files is raised for them as far as it may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (_INSTANCES + 2) * _DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(_INSTANCES, soft // _DESCRIPTORS - 2))
    return _INSTANCES


def _compile(
    world: World,
    changed: frozenset[ObjectKey] | set[ObjectKey],
    node: str,
    devices: Mapping[PodKey, int],
    constants: Mapping[str, int],
) -> dict[str, dict[object, object]]:
    """The contents of one node's policy maps."""
    compiler = Compiler(constants, node)
    tables: dict[str, dict[object, object]] = {name: {} for name in _POLICY_MAPS}
    for step in compiler.update(world, changed, devices):
        if isinstance(step, Write) and step.map in tables:
            tables[step.map].update(step.entries)
    return tables


def _asked(device: int) -> DryRun:
    zeros: dict[str, int] = dict.fromkeys(DryRun._fields, 0)
    return DryRun(**{**zeros, "ifindex": device, "src": _BLANK, "dst": _BLANK})  # type: ignore[arg-type]
