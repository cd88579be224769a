# SPDX-License-Identifier: Apache-2.0
"""Python's garbage collector, during large passes."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_gc() -> Iterator[None]:
    """Keep the garbage collector from visiting the millions of objects that a large pass makes to last.

    They are left out of later collections too, which would take 0.1 s and more in the middle of some event.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.freeze()
            gc.enable()
