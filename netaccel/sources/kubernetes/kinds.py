# SPDX-License-Identifier: Apache-2.0
"""Which objects a node's agent asks for, and no others. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from netaccel.model.service import PROXY_NAME_LABEL

HEADLESS = "service.kubernetes.io/headless"
"""It and PROXY_NAME_LABEL are mirrored from a Service to its EndpointSlices (KEP-2447)."""


@dataclass(frozen=True, slots=True)
class Watched:
    """One kind and the part of it that is asked for.

    ``selectors``: labelSelector and fieldSelector of the API. ``needed``: whether nothing can be served
    without it.
    """

    kind: str
    path: str
    selectors: Mapping[str, str] = field(default_factory=dict)
    needed: bool = True

    @property
    def name(self) -> str:
        """The resource's name, as ``kubectl get`` takes it."""
        return self.path.rpartition("/")[2]


def watched(node_name: str, proxy_name: str) -> tuple[Watched, ...]:
    """What to ask for on a node. ``proxy_name``: serve only Services that name this proxy; "": those without.

    The selectors of Services and EndpointSlices are kube-proxy's. Whatever asks for more (a policy: all
    Pods, Namespaces) adds it here.
    """
    chosen = f"{PROXY_NAME_LABEL}={proxy_name}" if proxy_name else f"!{PROXY_NAME_LABEL}"
    served = {"labelSelector": f"{chosen},!{HEADLESS}"}
    return (
        Watched("Service", "/api/v1/services", served),
        Watched("EndpointSlice", "/apis/discovery.k8s.io/v1/endpointslices", served),
        Watched("Node", "/api/v1/nodes", {"fieldSelector": f"metadata.name={node_name}"}, needed=False),
        Watched("Pod", "/api/v1/pods", {"fieldSelector": f"spec.nodeName={node_name}"}, needed=False),
    )
