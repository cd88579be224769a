# SPDX-License-Identifier: Apache-2.0
"""Policies of all four kinds in one form: what is selected, by which rules, in which order (design: Policy).

``NetworkPolicy`` (networking.k8s.io/v1), ``ClusterNetworkPolicy`` (policy.networking.k8s.io/v1alpha2) and the
project's own ``TrafficPolicy`` and ``ClusterTrafficPolicy`` (netaccel.io/v1alpha1) become a :class:`Policy`
each. The sources fill in every default and check every field; what a policy means is left to its readers:
the compiler, and an evaluator that shares nothing with it.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import NamedTuple

from netaccel.model.address import Cidr
from netaccel.model.service import ServiceKey

Labels = tuple[tuple[str, str], ...]


class Direction(enum.IntEnum):
    """Of traffic as the subject pod sees it; the values are those of enum policy_direction (abi.h)."""

    INGRESS = 0
    EGRESS = 1


class Kind(enum.Enum):
    """Kinds of policies by their Kubernetes names."""

    __hash__ = object.__hash__  # members are single; Enum's own is ten times as slow

    NETWORK = "NetworkPolicy"
    CLUSTER_NETWORK = "ClusterNetworkPolicy"
    TRAFFIC = "TrafficPolicy"
    CLUSTER_TRAFFIC = "ClusterTrafficPolicy"


class Tier(enum.IntEnum):
    """Where in the order of evaluation a policy stands."""

    ADMIN = 0
    NAMESPACED = 1
    BASELINE = 2


class Action(enum.Enum):
    """What a rule says. ClusterNetworkPolicy's Accept is ALLOW, its Deny DROP."""

    __hash__ = object.__hash__

    ALLOW = "Allow"
    DROP = "Drop"
    REJECT = "Reject"
    PASS = "Pass"
    MONITOR = "Monitor"


class Mode(enum.Enum):
    """Whether a policy decides, or only says what it would decide."""

    ENFORCE = "Enforce"
    MONITOR = "Monitor"


class Operator(enum.Enum):
    """Of a selector's requirement (metav1.LabelSelectorOperator)."""

    __hash__ = object.__hash__

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(NamedTuple):
    """One condition on one label. NOT_IN and DOES_NOT_EXIST hold too where the label is absent."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()


Selector = tuple[Requirement, ...]
"""All of the requirements hold; the empty one selects everything. ``matchLabels`` are IN with one value."""


class PodPeer(NamedTuple):
    """Pods by labels. Pods on the host's network are never meant: they are the node's."""

    pods: Selector
    namespaces: Selector | None
    """None: the policy's own namespace (a cluster kind's peers always name namespaces)."""


class CidrPeer(NamedTuple):
    """Addresses, pods' too, but for the exceptions, which cut this block only."""

    cidr: Cidr
    excepts: tuple[Cidr, ...] = ()


class ServicePeer(NamedTuple):
    """The pods behind a Service: those that its selector selects, else the addresses of its slices."""

    service: ServiceKey


class Entity(enum.Enum):
    """What is neither a pod nor an address."""

    __hash__ = object.__hash__

    HOST = "host"
    """The subject pod's own node, and pods on its network."""
    NODE = "node"
    """Any node of the cluster, the own one included."""
    WORLD = "world"
    """What is no pod and no node."""


class EntityPeer(NamedTuple):
    """One of the entities."""

    entity: Entity


class NodePeer(NamedTuple):
    """Nodes by labels (ClusterNetworkPolicy's egress peer ``nodes``)."""

    nodes: Selector


class UnknownPeer(NamedTuple):
    """A peer that can't be resolved (from a newer API, empty, ``domainNames``): ``reason`` says why.

    An ALLOW rule matches nothing by it. A rule of any other action that has one matches every peer and port,
    and a PASS is a DROP then: it fails closed (ClusterNetworkPolicy v1alpha2, of both kinds of peers).
    """

    path: str
    reason: str


Peer = PodPeer | CidrPeer | ServicePeer | EntityPeer | NodePeer | UnknownPeer

ICMP, ICMPV6 = 1, 58
"""Protocol numbers that :class:`PortRange` may have beside TCP, UDP and SCTP."""


class PortRange(NamedTuple):
    """Ports ``first`` to ``last`` of one IP protocol (number). The whole protocol: 0 to 65535.

    Of ICMP and ICMPv6, "ports" are 256 × type + code.
    """

    protocol: int
    first: int
    last: int


class NamedPort(NamedTuple):
    """The destination pod's container ports of this name; ``protocol`` has to match too, None: any."""

    name: str
    protocol: int | None


Port = PortRange | NamedPort


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of one direction. It matches where a peer and a port match.

    ``peers`` None: every peer. Empty: none. ``ports`` None: every protocol and port. Empty: none.
    """

    action: Action
    peers: tuple[Peer, ...] | None
    ports: tuple[Port, ...] | None
    name: str = ""
    """As its author named it; "" where the kind or the author gives no name."""


@dataclass(frozen=True, slots=True)
class Subject:
    """The pods that a policy is about; never those on the host's network."""

    pods: Selector
    namespaces: Selector | None
    """None: the policy's own namespace."""


class PolicyKey(NamedTuple):
    """Kind, namespace ("" for cluster kinds) and name."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.kind.value} {where}"


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy that passed validation, or (``denies``) what stands in for one that did not.

    ``ingress``, ``egress``: the rules in their order. ``isolates``: directions in which its subjects are
    denied what no rule of the namespaced tier allows (NAMESPACED only; a NetworkPolicy by its policyTypes, a
    TrafficPolicy where the field is present and empty or holds an Allow).
    ``priority``: of ADMIN and BASELINE, low first. ``created``: seconds since the epoch, infinity where the
    object has no date (files).
    ``denies``: why the object could not be decoded; its subject is denied in both directions then (its rules
    hold a DROP of everything).
    ``warnings``: (field path, what about it), for people; the rules already say what follows.
    """

    key: PolicyKey
    tier: Tier
    subject: Subject
    ingress: tuple[Rule, ...] = ()
    egress: tuple[Rule, ...] = ()
    isolates: frozenset[Direction] = frozenset()
    mode: Mode = Mode.ENFORCE
    priority: int = 0
    created: float = math.inf
    uid: str = ""
    generation: int = 0
    denies: str = ""
    warnings: tuple[tuple[str, str], ...] = ()

    def rules(self, direction: Direction) -> tuple[Rule, ...]:
        """The rules of one direction."""
        return self.ingress if direction is Direction.INGRESS else self.egress


class RuleRef(NamedTuple):
    """Which rule gave a verdict: the ``number``-th (from 0) of a policy's direction.

    NO_RULE: none allowed, and the policy isolates.
    """

    policy: PolicyKey
    direction: Direction
    number: int


NO_RULE = -1
