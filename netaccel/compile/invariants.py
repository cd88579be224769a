# SPDX-License-Identifier: Apache-2.0
"""What must hold in the maps after every single write, whatever the agent's fate: never half a Service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from netaccel.compile.services import FAMILIES
from netaccel.model.address import endpoint_text, is_ipv4
from netaccel.records import Backend, Frontend, FrontendKey, Service


def violations(
    services: Mapping[int, Service],
    frontends: Mapping[FrontendKey, Frontend],
    backends: Mapping[int, Backend],
    maglev: Mapping[int, int],
    free_state: int,
) -> Iterator[str]:
    """A line for each frontend that points at what isn't there. ``free_state`` is BACKEND_FREE."""
    for key, frontend in frontends.items():
        where = f"{endpoint_text(key.addr, key.port)}/{key.proto}"
        service = services.get(frontend.service)
        if service is None:
            yield f"{where}: its service port {frontend.service} has no name"
            continue
        if FAMILIES.index(service.family) != (not is_ipv4(key.addr)):
            yield f"{where}: its service port {frontend.service} is of the other family"
        wire = range(frontend.wire_offset, frontend.wire_offset + frontend.wire_length)
        pod = range(frontend.pod_offset, frontend.pod_offset + frontend.pod_length)
        for number in {maglev.get(slot, 0) for table in (wire, pod) for slot in table}:
            backend = backends.get(number)
            if backend is None or backend.state == free_state:
                yield f"{where}: its table names backend {number}, which isn't there"
            elif backend.service != frontend.service:
                yield f"{where}: its table names backend {number}, which is of service port {backend.service}"
