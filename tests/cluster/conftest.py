# SPDX-License-Identifier: Apache-2.0
"""Real clusters: kubelets, containerd and runc in namespaces.

``cluster``
    `netaccel.cluster.handle.Cluster`, one for the session: two nodes, netaccel instead of kube-proxy. Leave
    it with what it came with.
``bare_cluster``
    The same without a service proxy, one for the module that asks.
``command``
    ``command("node", "reboot", "node-1", name=...) -> str``: ``netaccel cluster …`` as a person runs it.

These tests take minutes and gigabytes: they are collected only where this folder is named. All of them run
in one worker of pytest-xdist.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from clustercommand import Command, run

from netaccel.cluster.handle import Cluster

HERE = Path(__file__).parent
UP_SECONDS = 1800  # the first time ever, Kubernetes is built


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    asked = [Path(str(word).partition("::")[0]).resolve() for word in config.args]
    return None if any(path.is_relative_to(HERE) for path in asked) else True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(scope="session")
def command() -> Command:
    return run


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    yield from _cluster("n", "netaccel")


@pytest.fixture(scope="module")
def bare_cluster() -> Iterator[Cluster]:
    yield from _cluster("b", "none")


def _cluster(letter: str, proxy: str) -> Iterator[Cluster]:
    name = f"t{os.getpid()}{letter}"
    try:
        print(run("up", "--proxy", proxy, name=name, timeout=UP_SECONDS))
        yield Cluster(name)
    finally:
        run("down", name=name)
