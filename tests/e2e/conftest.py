# SPDX-License-Identifier: Apache-2.0
"""One lab a test module, or one a mode of it.

A module says what is in its lab by ``prepare(world)``, and by ``OPTIONS`` or ``MODES`` (options by name)
what the lab is like. All tests of one lab run in one worker.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from labworld import World


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    modes = getattr(metafunc.module, "MODES", None)
    if modes and "world" in metafunc.fixturenames:
        metafunc.parametrize("world", modes.values(), ids=modes.keys(), indirect=True, scope="module")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "world" in item.fixturenames:
            mode = item.callspec.indices.get("world", 0) if hasattr(item, "callspec") else 0
            item.add_marker(pytest.mark.xdist_group(f"{item.module.__name__}-{mode}"))


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    options = getattr(request, "param", None) or getattr(request.module, "OPTIONS", {})
    found = World(tmp_path_factory.mktemp("manifests"), **options)
    request.module.prepare(found)
    try:
        found.up()
        yield found
    finally:
        if request.session.testsfailed:
            print(found.logs())
        found.down()
