# SPDX-License-Identifier: Apache-2.0
"""From the model to the entries of the maps. Pure: no I/O, no clock, nothing asynchronous.

::

    Service, slices, node ─ services ─▶ CompiledService ─ desired ─▶ Placed ─ diff ─▶ Write, Delete, ...
                                             (no ids)      │  ids, maglev     │        in order
                                             claims ───────┘                  └─ readable: text of dumps

``services`` what a Service means on this node · ``claims`` who holds an address and port ·
``maglev`` tables · ``ids`` ids and ranges that last · ``desired`` records of the maps ·
``shrink`` what needs no room · ``diff`` what to write, in which order ·
``adopt`` dumps back to Services · ``invariants`` what always holds · ``readable`` dumps as lines.
"""
