# SPDX-License-Identifier: Apache-2.0
"""Whether selectors select, and whether peers and ports of a rule match.

Selectors: metav1.LabelSelector. Peers and ports: NetworkPolicy (networking.k8s.io/v1, API reference and
"Network Policies" of the Kubernetes documentation), ClusterNetworkPolicy (network-policy-api, v1alpha2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from netaccel.model.address import Address, Cidr, is_ipv4
from netaccel.model.endpoint import Pod
from netaccel.model.policy import (
    Action,
    CidrPeer,
    Direction,
    Entity,
    EntityPeer,
    NamedPort,
    NodePeer,
    Operator,
    Peer,
    PodPeer,
    Policy,
    Port,
    PortRange,
    Requirement,
    Rule,
    Selector,
    ServicePeer,
    UnknownPeer,
)
from netaccel.model.service import ServiceKey
from netaccel.model.snapshot import World
from netaccel.oracle.party import Party, Question, namespace_labels, node_labels

_IPV4_BITS = 96
"""Bits before the IPv4 address in the mapped form."""


# ----------------------------------------------------------------- selectors


def selects(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Whether all requirements hold."""
    return all(_holds(requirement, labels) for requirement in selector)


def _holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    key, operator, values = requirement
    match operator:
        case Operator.IN:
            return key in labels and labels[key] in values
        case Operator.NOT_IN:
            return key not in labels or labels[key] not in values
        case Operator.EXISTS:
            return key in labels
        case Operator.DOES_NOT_EXIST:
            return key not in labels
    assert_never(operator)


def selects_pod(world: World, policy: Policy, pod: Pod) -> bool:
    """Whether a policy is about this pod; never about one on the host's network."""
    if pod.host_network:
        return False
    return _selects_pod(world, policy, PodPeer(policy.subject.pods, policy.subject.namespaces), pod)


def _selects_pod(world: World, policy: Policy, peer: PodPeer, pod: Pod) -> bool:
    if peer.namespaces is None:
        if pod.key.namespace != policy.key.namespace:
            return False
    elif not selects(peer.namespaces, namespace_labels(world, pod.key.namespace)):
        return False
    return selects(peer.pods, dict(pod.labels))


# --------------------------------------------------------------------- rules


def is_unknown(rule: Rule) -> bool:
    """Whether a peer of the rule can't be resolved."""
    return any(isinstance(peer, UnknownPeer) for peer in rule.peers or ())


def matches(world: World, policy: Policy, rule: Rule, direction: Direction, question: Question) -> bool:
    """Whether a rule of a policy that selects the subject matches.

    A rule that doesn't allow and has a peer that can't be resolved matches everything: it fails closed.
    """
    if is_unknown(rule) and rule.action is not Action.ALLOW:
        return True
    return matches_peers(world, policy, rule, direction, question) and matches_ports(rule, question)


def matches_peers(world: World, policy: Policy, rule: Rule, direction: Direction, question: Question) -> bool:
    """Whether one of the rule's peers is the other end."""
    if rule.peers is None:
        return True
    subject, peer = ends(direction, question)
    return any(_is_peer(world, policy, subject, one, peer) for one in rule.peers)


def matches_ports(rule: Rule, question: Question) -> bool:
    """Whether one of the rule's ports is the destination's."""
    return rule.ports is None or any(_is_port(port, question) for port in rule.ports)


def ends(direction: Direction, question: Question) -> tuple[Party, Party]:
    """Whose policy is asked, and the other end."""
    if direction is Direction.INGRESS:
        return question.destination, question.source
    return question.source, question.destination


def _is_port(port: Port, question: Question) -> bool:
    if isinstance(port, PortRange):
        return port.protocol == question.protocol and port.first <= question.port <= port.last
    return _has_named_port(port, question)


def _has_named_port(port: NamedPort, question: Question) -> bool:
    """A name is the destination pod's, in both directions; what is no pod has none."""
    if port.protocol not in (None, question.protocol) or question.destination.pod is None:
        return False
    return any(
        one.name == port.name and one.protocol == question.protocol and one.port == question.port
        for one in question.destination.pod.ports
    )


def _is_peer(world: World, policy: Policy, subject: Party, wanted: Peer, peer: Party) -> bool:
    match wanted:
        case PodPeer():
            return peer.pod is not None and _selects_pod(world, policy, wanted, peer.pod)
        case CidrPeer():
            cut = any(contains(one, peer.address) for one in wanted.excepts)
            return contains(wanted.cidr, peer.address) and not cut
        case ServicePeer():
            return _is_behind(world, wanted.service, peer)
        case EntityPeer():
            return _is_entity(wanted.entity, subject, peer)
        case NodePeer():
            return bool(peer.node) and selects(wanted.nodes, node_labels(world, peer.node))
        case UnknownPeer():
            return False
    assert_never(wanted)


def _is_behind(world: World, key: ServiceKey, peer: Party) -> bool:
    """Whether a Service has this end behind it. One that isn't there has nobody."""
    service = world.service(key)
    if service is None:
        return False
    if service.selector:
        pod = peer.pod
        return (
            pod is not None
            and pod.key.namespace == key.namespace
            and set(service.selector) <= set(pod.labels)
        )
    return any(endpoint.address == peer.address for one in world.slices(key) for endpoint in one.endpoints)


def _is_entity(entity: Entity, subject: Party, peer: Party) -> bool:
    match entity:
        case Entity.HOST:
            return is_own_node(subject, peer)
        case Entity.NODE:
            return bool(peer.node)
        case Entity.WORLD:
            return peer.pod is None and not peer.node
    assert_never(entity)


def is_own_node(subject: Party, peer: Party) -> bool:
    """Whether the peer is the node that the subject runs on."""
    return subject.pod is not None and bool(peer.node) and peer.node == subject.pod.node_name


def contains(cidr: Cidr, address: Address) -> bool:
    """Whether an address is in a block of its own family: ``::/0`` has no IPv4 in it."""
    if is_ipv4(address) != (is_ipv4(cidr.addr) and cidr.length >= _IPV4_BITS):
        return False
    shift = 128 - cidr.length
    return int.from_bytes(address) >> shift == int.from_bytes(cidr.addr) >> shift
