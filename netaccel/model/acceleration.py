# SPDX-License-Identifier: Apache-2.0
"""What the self-test of same-node acceleration found."""

from __future__ import annotations

import msgspec


class Check(msgspec.Struct, frozen=True):
    """One thing that the self-test tried on this kernel. ``detail``: what was seen, where it is not ok."""

    name: str
    ok: bool
    detail: str = ""
