# SPDX-License-Identifier: Apache-2.0
"""From policies, pods and namespaces to the entries of the policy maps. Pure.

::

    pods, nodes ─ addresses ─┐
    policies ─ rules ─ cidrs ┴─ identities ─ selectors: masks of identities by peer ─┐
        │                                                                            │
        └─ subjects: local pods with the same policies ─ rows: (port) → verdict ─────┴─ tables: what to write

``compiler`` holds it all together and does only what a change asks for · ``changes`` what was changed ·
``addresses`` who has an address · ``cidrs`` prefixes that policies name · ``identities`` numbers of what is
alike · ``selectors`` peers as sets · ``rules`` policies as they are read · ``catalog`` all of them, and who
names what · ``subjects`` classes of peers · ``rows`` rules resolved into verdicts · ``assembly`` subjects,
rows and rules in use · ``tables`` the maps' image, what to write in which order · ``held`` what they hold
now · ``limits`` what fits · ``numbers`` ids that last · ``codes`` constants of abi.h.
"""

from netaccel.compile.policy.changes import everything
from netaccel.compile.policy.compiler import Compiler
from netaccel.compile.policy.limits import Limits
from netaccel.compile.policy.tables import MAPS, Image, differences

__all__ = ["MAPS", "Compiler", "Image", "Limits", "differences", "everything"]
