# SPDX-License-Identifier: Apache-2.0
"""Devices, routes and namespaces by netlink; the only importer of pyroute2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyroute2 import netns


@contextmanager
def inside_namespace(path: Path) -> Iterator[None]:
    """Put this thread into the network namespace held open by ``path``, and back.

    A socket made inside stays there for good. Don't await inside: other tasks of the thread would be there too.
    """
    netns.pushns(str(path))
    try:
        yield
    finally:
        netns.popns()
