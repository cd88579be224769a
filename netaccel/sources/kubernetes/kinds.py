# SPDX-License-Identifier: Apache-2.0
"""Which objects a node's agent asks for, and no others. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netaccel.model.policy import Kind
from netaccel.model.service import PROXY_NAME_LABEL

HEADLESS = "service.kubernetes.io/headless"
"""It and PROXY_NAME_LABEL are mirrored from a Service to its EndpointSlices (KEP-2447)."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One kind and the part of it that is asked for.

    ``selectors``: labelSelector and fieldSelector of the API. ``needed``: whether nothing can be served
    without it. ``optional``: a cluster need not have the kind; without it there are no objects of it.
    ``widens``: asked for without selectors once there is a policy, whose peers may be anywhere.
    """

    kind: str
    path: str
    selectors: Mapping[str, str] = field(default_factory=dict)
    needed: bool = True
    optional: bool = False
    widens: bool = False

    @property
    def name(self) -> str:
        """The resource's name, as ``kubectl get`` takes it."""
        return self.path.rpartition("/")[2]


POLICIES = frozenset(kind.value for kind in Kind)
_NAMESPACES = "/api/v1/namespaces"
_OF_POLICY = (
    Watched("Namespace", _NAMESPACES),
    Watched("NetworkPolicy", "/apis/networking.k8s.io/v1/networkpolicies"),
    Watched(
        "ClusterNetworkPolicy",
        "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies",
        optional=True,
    ),
    Watched("TrafficPolicy", "/apis/netaccel.io/v1alpha1/trafficpolicies", optional=True),
    Watched("ClusterTrafficPolicy", "/apis/netaccel.io/v1alpha1/clustertrafficpolicies", optional=True),
)
"""All are needed: an agent that took forbidden policies for absent ones would open what they close."""


def watched(node_name: str, proxy_name: str, *, policy: bool) -> tuple[Watched, ...]:
    """What to ask for on a node. ``proxy_name``: serve only Services that name this proxy; "": those without.

    The selectors of Services and EndpointSlices are kube-proxy's. ``policy``: whether policies are enforced;
    where they are not, Namespaces are asked for all the same, for their annotation.
    """
    chosen = f"{PROXY_NAME_LABEL}={proxy_name}" if proxy_name else f"!{PROXY_NAME_LABEL}"
    served = {"labelSelector": f"{chosen},!{HEADLESS}"}
    own_node = {"fieldSelector": f"metadata.name={node_name}"}
    own_pods = {"fieldSelector": f"spec.nodeName={node_name}"}
    return (
        Watched("Service", "/api/v1/services", served),
        Watched("EndpointSlice", "/apis/discovery.k8s.io/v1/endpointslices", served),
        Watched("Node", "/api/v1/nodes", own_node, needed=False, widens=policy),
        Watched("Pod", "/api/v1/pods", own_pods, needed=False, widens=policy),
        *(_OF_POLICY if policy else (Watched("Namespace", _NAMESPACES, needed=False),)),
    )
