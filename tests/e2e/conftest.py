# SPDX-License-Identifier: Apache-2.0
"""One lab a test module: a module says what is in it by a function ``prepare(world)`` and ``OPTIONS``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from world import World


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    found = World(tmp_path_factory.mktemp("manifests"), **getattr(request.module, "OPTIONS", {}))
    prepare = getattr(request.module, "prepare", None)
    if prepare:
        prepare(found)
    found.up()
    try:
        yield found
    finally:
        if request.session.testsfailed:
            print(found.logs())
        found.down()
