# SPDX-License-Identifier: Apache-2.0
"""Token buckets, one for all and one for each key. Pure: the caller tells the time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` at once, then one each ``seconds``."""

    burst: int
    seconds: float


class Bucket:
    """Tokens; full at first. A clock that goes back adds none."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._tokens = float(rate.burst)
        self._at = float("inf")

    def has(self, now: float) -> bool:
        """Whether there is a token."""
        gained = max(0.0, now - self._at) / self._rate.seconds
        self._tokens = min(float(self._rate.burst), self._tokens + gained)
        self._at = now
        return self._tokens >= 1.0

    def take(self) -> None:
        """Take one that is there."""
        self._tokens -= 1.0


class Buckets:
    """A bucket for each key; the one longest unused is forgotten, full, beyond ``size``."""

    def __init__(self, rate: Rate, size: int) -> None:
        self._rate = rate
        self._size = size
        self._buckets: OrderedDict[Hashable, Bucket] = OrderedDict()

    def of(self, key: Hashable) -> Bucket:
        """The key's."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(self._rate)
            if len(self._buckets) > self._size:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(key)
        return bucket
