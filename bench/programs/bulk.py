# SPDX-License-Identifier: Apache-2.0
"""iperf3: bulk one way, then both ways at once. It says what each end counted; it compares no bytes."""

from __future__ import annotations

import json
from typing import Any

from bench.programs.base import Ground, Outcome, Program
from netaccel.errors import LabError

_BLOCK = 128 * 1024
"""Bytes that it writes in one call."""
_STREAMS = 4
_SUMS = (("sum_sent", "sum_received"), ("sum_sent_bidir_reverse", "sum_received_bidir_reverse"))


def _server(ground: Ground) -> list[str]:
    return ["iperf3", "-s", "-B", ground.address, "-p", str(ground.port)]


def _ask(ground: Ground, *options: str, seconds: float = 0.0) -> dict[str, Any]:
    """What it says at its end. LabError where something went wrong."""
    command = ("iperf3", "-c", ground.address, "-p", str(ground.port), "-J", *options)
    told: dict[str, Any] = json.loads(ground.ask(*command, seconds=seconds))
    if problem := told.get("error"):
        raise LabError(f"iperf3: {problem}")
    return dict(told["end"])


def _ready(ground: Ground) -> object:
    return _ask(ground, "-n", "1K")


def _load(ground: Ground, seconds: float) -> Outcome:
    half = max(1, round(seconds / 2))
    blocks, errors = 0.0, []
    for ways in (("--parallel", str(_STREAMS)), ("--bidir",)):
        end = _ask(ground, *ways, "-t", str(half), seconds=half)
        for sent, received in _SUMS[: 1 + (ways == ("--bidir",))]:
            was, came = int(end[sent]["bytes"]), int(end[received]["bytes"])
            blocks += came / _BLOCK
            if not 0 < came <= was:
                errors.append(f"{' '.join(ways)}: {received} {came} bytes, {sent} {was}")
    return Outcome(blocks / (2 * half), tuple(errors))


BULK = Program(
    "iperf3",
    f"bulk over {_STREAMS} connections one way, then over one both ways: blocks of 128 KiB",
    {"iperf3": "iperf3"},
    lambda ground: None,
    _server,
    _ready,
    _load,
    accelerated=False,
)
