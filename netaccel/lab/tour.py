# SPDX-License-Identifier: Apache-2.0
"""What steps of a tour are made of."""

from __future__ import annotations

from typing import NamedTuple

from netaccel.errors import LabError


class Shown(NamedTuple):
    """What a step proved, in one line; and what there was to see."""

    proof: str
    details: tuple[str, ...] = ()


def hold(truth: bool, otherwise: str) -> None:
    """Raise LabError unless it is so."""
    if not truth:
        raise LabError(otherwise)
