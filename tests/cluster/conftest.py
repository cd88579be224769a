# SPDX-License-Identifier: Apache-2.0
"""A real cluster for the tests of this folder, which run only when asked for: ``pytest tests/cluster``.

``cluster``
    `netaccel.cluster.handle.Cluster`, one for the session: two nodes, netaccel as their service proxy, as
    ``make cluster`` has it. It is taken down at the end, also when the run is interrupted; one that a killed
    run left is taken down first. With ``NETACCEL_TEST_CLUSTER=NAME`` that one is used, brought up where it
    isn't, and stays.
``world``
    `world.World`: the cluster, and a namespace of the test's own. What a failed test did, and how the cluster
    is then, is in its report.

Every module that needs a cluster of another kind brings its own up (``OWN``), one after the other. Of those
that share one (``SHARED``), the module that uninstalls netaccel is the last. Much of a cluster's time is
waiting: with two workers of pytest-xdist (``-n 2 --dist loadgroup``) each has one of the two groups.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import uuid
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from world import World

from netaccel.cluster import install, lifecycle
from netaccel.cluster.handle import Cluster
from netaccel.cluster.state import State
from netaccel.errors import LabError

HERE = Path(__file__).parent
OWN = ("test_nodes", "test_cluster_leftovers", "test_deploy", "test_handover")
SHARED = (
    "test_up",
    "test_families",
    "test_refusals",
    "test_policies",
    "test_acceleration",
    "test_rolling",
    "test_reboot",
    "test_api_server",
    "test_uninstall",
)
ORDER = (*OWN, *SHARED)
TIMEOUT = 1200  # seconds for a test and the cluster that it may bring up, on a busy machine
_NAME = re.compile(r"(?:test|deploy)(\d+)[a-z]*")  # of a cluster that a run with this process id made


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`make test` leaves them out: they take minutes, and an image."""
    asked = [Path(word.partition("::")[0]).resolve() for word in config.args]
    return None if any(path == HERE or HERE in path.parents for path in asked) else True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Generator[None, None, None]:
    """Mark first, since pytest-xdist looks for groups then; order last."""

    def place(item: pytest.Item) -> int:
        return ORDER.index(item.path.stem) if item.path.stem in ORDER else len(ORDER)

    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("own" if item.path.stem in OWN else "shared"))
            item.add_marker(pytest.mark.root)
            item.add_marker(pytest.mark.timeout(TIMEOUT))
    yield
    if all(HERE in item.path.parents for item in items):
        items.sort(key=place)  # stable: within a module as written


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    world = getattr(item, "funcargs", {}).get("world")
    if report.when == "call" and isinstance(world, World):
        report.sections.append((f"done in cluster {world.cluster.name}", world.course()))
        if report.failed:
            report.sections.append((f"cluster {world.cluster.name}", world.story()))
    return report


def say(line: str) -> None:
    print(line, file=sys.__stderr__, flush=True)


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: clusters are taken down."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session", autouse=True)
def _left_by_killed_runs() -> None:
    for name in lifecycle.names():
        owner = _NAME.fullmatch(name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            lifecycle.down(name, say)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not install.IMAGE.is_file():
        pytest.fail(f"{install.IMAGE}: no such image: `make image` makes it", pytrace=False)
    kept = os.environ.get("NETACCEL_TEST_CLUSTER", "")
    name = kept or f"test{os.getpid()}"
    state = State(name, 2, "netaccel", (str(install.IMAGE),), str(install.OVERLAY))
    try:
        lifecycle.up(state, say)
        yield Cluster(name)
    except LabError as error:
        pytest.fail(str(error), pytrace=False)
    finally:
        if not kept:
            lifecycle.down(name, say)


@pytest.fixture
def world(cluster: Cluster) -> Iterator[World]:
    yield from a_world(cluster)


def a_world(cluster: Cluster) -> Iterator[World]:
    """A namespace whose removal begins when the test ends."""
    found = World(cluster, f"test-{uuid.uuid4().hex[:8]}")
    cluster.kubectl("create", "namespace", found.namespace)
    found.kubectl("wait", "--for=create", "serviceaccount/default", "--timeout=60s", timeout=90)
    yield found
    cluster.kubectl("delete", "namespace", found.namespace, "--wait=false")
