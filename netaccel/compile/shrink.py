# SPDX-License-Identifier: Apache-2.0
"""What of a Service's change needs no room: the removals.

A full map refuses additions whole. But what is gone must go, or traffic would be sent to dead backends: so a
Service that doesn't fit any more keeps what it had, less what it no longer asks for.
"""

from __future__ import annotations

from dataclasses import replace

from netaccel.compile.desired import NOTHING, Codes, Holds, Placed, place
from netaccel.compile.ids import Ids, PortKey
from netaccel.compile.services import CompiledService


def shrink(compiled: CompiledService, ids: Ids, codes: Codes, holds: Holds, before: Placed) -> Placed:
    """``before`` less what ``compiled`` doesn't have. Takes no id and no range: see ``patch`` of place()."""
    if not before.frontends:
        return NOTHING  # nobody was served: what there is, a failed write has left
    groups = []
    for group in compiled.groups:
        old = before.groups.get(PortKey(compiled.key, group.port, group.proto, group.family))
        if old is None:
            continue
        groups.append(
            replace(
                group,
                backends={
                    where: backend for where, backend in group.backends.items() if where in old.backends
                },
                cluster=tuple(where for where in group.cluster if where in old.backends),
                local=tuple(where for where in group.local if where in old.backends),
            )
        )
    kept = before.frontends
    placed = place(
        replace(compiled, groups=tuple(groups)),
        ids,
        codes,
        lambda where: where in kept and holds(where),
        before,
        patch=True,
    )
    return Placed(placed.groups, placed.frontends, placed.source_ranges & before.source_ranges)
