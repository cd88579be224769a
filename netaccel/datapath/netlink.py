# SPDX-License-Identifier: Apache-2.0
"""Devices, routes and namespaces by netlink; the only importer of pyroute2."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import netns


@contextmanager
def inside_namespace(path: Path) -> Iterator[None]:
    """Put this thread into the network namespace held open by ``path``, and back. Raises OSError.

    A socket made inside stays there for good. Don't await inside: other tasks of the thread would be there too.
    """
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            netns.setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            netns.setns(before)
    finally:
        os.close(before)
