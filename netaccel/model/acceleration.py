# SPDX-License-Identifier: Apache-2.0
"""Same-node acceleration: the annotation that owners give, and what the self-test found."""

from __future__ import annotations

import msgspec

ANNOTATION = "netaccel.io/accelerate"
"""Of a Pod, Namespace or Service."""
VALUES = ("enabled", "disabled")
"""What it may say; anything else is told and ignored."""


class Check(msgspec.Struct, frozen=True):
    """One thing that the self-test tried on this kernel. ``detail``: what was seen, where it is not ok."""

    name: str
    ok: bool
    detail: str = ""
