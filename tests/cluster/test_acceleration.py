# SPDX-License-Identifier: Apache-2.0
"""Acceleration in a real cluster: the agent's pod gets into others' namespaces; kubectl alone steers it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from objects import Object, pod
from world import World, wait_for

from netaccel.errors import LabError
from netaccel.lab import load

NODE = "node-1"
PORT = 9000
ANNOTATION = "netaccel.io/accelerate"
_LOAD = Path(load.__file__).read_text(encoding="utf-8")
_SERVICE: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "db"},
    "spec": {"selector": {"app": "db"}, "ports": [{"name": "load", "port": PORT}]},
}


def loaded(name: str, *words: str) -> Object:
    """A pod of Python's, whose owner vouches for it."""
    made = pod(name, NODE, _LOAD, *words)
    made["metadata"] |= {"labels": {"app": name}, "annotations": {ANNOTATION: "enabled"}}
    made["spec"]["restartPolicy"] = "Always"  # it may ask before there is who answers
    return made


@pytest.fixture
def busy(world: World) -> World:
    """A pod that asks a Service all the time, whose only endpoint is on the same node."""
    asks = ("--connect", f"db.{world.namespace}.svc.cluster.local:{PORT}", "--seconds", "3600")
    world.apply(_SERVICE, loaded("db", "--listen", str(PORT)), loaded("asks", *asks))
    return world


def connection(world: World) -> dict[str, Any]:
    """The load's, as the node's agent shows it; {} while there is none, or no such pod yet."""
    name = f"pod:{world.namespace}/asks"
    try:
        found = json.loads(world.run(NODE, "netaccel", "accel", "show", name, "-o", "json"))
    except LabError:  # it has no process either, while it is started again
        return {}
    return next((one for one in found if one["remote_port"] == PORT), {})


def path(world: World) -> str:
    return str(connection(world).get("carried", {}).get("path", ""))


def test_a_busy_connection_is_accelerated_until_its_owner_says_no(busy: World) -> None:
    world = busy
    wait_for(lambda: path(world) == "socket", "the load accelerated")
    told = connection(world)
    assert (told["peer"], told["service"]) == (f"{world.namespace}/db", f"{world.namespace}/db")
    wait_for(lambda: connection(world)["carried"].get("received_bytes"), "answers from socket to socket")

    world.kubectl("annotate", "pod", "asks", f"{ANNOTATION}=disabled", "--overwrite")
    wait_for(lambda: connection(world).get("reason") == "disabled by its owner", "back to TCP")
    before = connection(world)["carried"]["tcp_sent_bytes"]
    wait_for(lambda: connection(world)["carried"]["tcp_sent_bytes"] > before, "it goes on by TCP")

    world.kubectl("annotate", "pod", "asks", f"{ANNOTATION}=enabled", "--overwrite")
    wait_for(lambda: path(world) == "socket", "accelerated again: the same connection")
    assert connection(world)["local_port"] == told["local_port"]


def test_a_value_that_means_nothing_is_told(busy: World) -> None:
    busy.kubectl("annotate", "service", "db", f"{ANNOTATION}=off")
    name = f"Service {busy.namespace}/db"
    wait_for(lambda: f"{name}: annotation {ANNOTATION}: 'off'" in busy.told(NODE), "the wrong value told")
