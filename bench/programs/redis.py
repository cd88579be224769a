# SPDX-License-Identifier: Apache-2.0
"""Redis with redis-benchmark: INCR, and whether the counter counted each."""

from __future__ import annotations

from bench.programs.base import CONNECTIONS, Ground, Outcome, Program, number

_KEY = "counter:__rand_int__"  # redis-benchmark's
_FIRST = 5000
"""Requests from which it is reckoned how many fill the time."""


def _server(ground: Ground) -> list[str]:
    options = {
        "bind": ground.address,
        "port": str(ground.port),
        "protected-mode": "no",
        "save": "",
        "appendonly": "no",
        "dir": str(ground.folder),
    }
    return ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]


def _at(ground: Ground) -> tuple[str, ...]:
    return ("-h", ground.address, "-p", str(ground.port))


def _ready(ground: Ground) -> str:
    return ground.ask("redis-cli", "-e", *_at(ground), "ping")


def _increment(ground: Ground, requests: int, seconds: float) -> float:
    options = ("-c", str(CONNECTIONS), "-n", str(requests), "--csv", "-t", "incr")
    said = ground.ask("redis-benchmark", *_at(ground), *options, seconds=seconds)
    return number(r'"INCR","([\d.]+)"', said)


def _load(ground: Ground, seconds: float) -> Outcome:
    ground.ask("redis-cli", "-e", *_at(ground), "del", _KEY)
    requests = int(seconds * _increment(ground, _FIRST, seconds))
    rate = _increment(ground, requests, 10 * seconds)
    counted = int(ground.ask("redis-cli", "-e", *_at(ground), "get", _KEY))
    wanted = requests + _FIRST
    return Outcome(rate, () if counted == wanted else (f"{counted} increments of {wanted}",))


REDIS = Program(
    "redis",
    f"redis-benchmark: INCR, {CONNECTIONS} connections",
    {"redis-server": "redis-server", "redis-benchmark": "redis-tools"},
    lambda ground: None,
    _server,
    _ready,
    _load,
)
