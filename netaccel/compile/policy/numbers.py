# SPDX-License-Identifier: Apache-2.0
"""Numbers for what the maps name: stable, and given out again only when no map holds them.

A number that is freed, or was found in the maps and is nobody's, rests until :meth:`Numbers.commit`: until
the maps have been written. Then it goes to the end of the queue.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

from netaccel.errors import CapacityError

_K = TypeVar("_K", bound=Hashable)


class Numbers(Generic[_K]):
    """Numbers ``first`` to ``last`` for keys."""

    def __init__(self, what: str, first: int, last: int) -> None:
        self.of: dict[_K, int] = {}
        self._what = what
        self._first, self._last = first, last
        self._fresh = first
        self._free: deque[int] = deque()
        self._taken: set[int] = set()
        self._resting: set[int] = set()

    def get(self, key: _K, wish: int | None = None) -> int:
        """The key's number; a new one if need be, ``wish`` if nobody has it. CapacityError."""
        number = self.of.get(key)
        if number is None:
            number = self.of[key] = self._take(wish)
        return number

    def rename(self, old: _K, new: _K) -> None:
        """Give a key's number to another key that has none."""
        self.of[new] = self.of.pop(old)

    def free(self, key: _K) -> None:
        """Take a number back at the next commit."""
        number = self.of.pop(key)
        self._taken.discard(number)
        self._resting.add(number)

    def hold(self, numbers: Iterable[int]) -> None:
        """These stand in the maps: nobody new gets them before the next commit but by a wish."""
        self._resting.update(number for number in numbers if number not in self._taken)

    def commit(self) -> None:
        """The maps are written."""
        self._free.extend(sorted(self._resting))
        self._resting.clear()

    def _take(self, wish: int | None) -> int:
        if wish is not None and self._first <= wish <= self._last and wish not in self._taken:
            self._resting.discard(wish)
            self._taken.add(wish)
            return wish
        while self._fresh <= self._last or self._free:
            if self._fresh <= self._last:
                number, self._fresh = self._fresh, self._fresh + 1
            else:
                number = self._free.popleft()
            if number not in self._taken and number not in self._resting:
                self._taken.add(number)
                return number
        raise CapacityError(f"{self._what} are used up: there are {self._last - self._first + 1}")

    def __len__(self) -> int:
        """Numbers in use."""
        return len(self.of)
