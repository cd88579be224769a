# SPDX-License-Identifier: Apache-2.0
"""How long to wait before trying again. Pure but for the dice."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Exponential with full jitter: the n-th wait is anything from 0 to ``first`` · 2ⁿ seconds.

    All agents of a cluster lose their API server at the same time; only jitter over the whole range
    spreads their return. ``last`` bounds the range. ``dice``: a number in [0, 1).
    """

    def __init__(
        self, first: float = 0.5, last: float = 20.0, dice: Callable[[], float] = random.random
    ) -> None:
        self.first = first
        self.last = last
        self._dice = dice
        self._failures = 0

    def wait(self, asked: float | None = None) -> float:
        """Seconds until the next try. ``asked``: what the server wants at least (Retry-After)."""
        # 2^32 times any sensible first exceeds any sensible last, and stays a number.
        ceiling = min(self.first * 2.0 ** min(self._failures, 32), self.last)
        self._failures += 1
        return (asked or 0.0) + ceiling * self._dice()

    def reset(self) -> None:
        """It went well."""
        self._failures = 0
