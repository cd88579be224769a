# SPDX-License-Identifier: Apache-2.0
"""``/api/v1/verdict``: what this node's kernel says of a flow from or to one of its pods.

Asked by ``direction`` (ingress, egress), ``source``, ``destination`` (addresses after translation),
``protocol`` and ``port`` (numbers; of ICMP 256 × type + code). Answered by ``{"node": …, "judgement": …}``
(netaccel/model/plain.py of oracle.Judgement), null where this node does not know. Nothing is written for it,
and no packet is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from netaccel.errors import DatapathError
from netaccel.explain.live import PinnedKernel
from netaccel.model.address import parse_address
from netaccel.model.plain import Told, of_told, plain
from netaccel.model.policy import Direction
from netaccel.oracle import Judgement, Question, locate

_PROTOCOLS, _PORTS = 256, 65536


class ExplainRoutes:
    """One method a path. One question at a time: each loads programs, and frees them again."""

    def __init__(self, told: Callable[[], Told], maps: Path) -> None:
        """``told``: the world, asked on the event loop. ``maps``: the folder of pinned maps."""
        self._told = told
        self._maps = maps
        self._one = asyncio.Lock()

    async def verdict(self, request: web.Request) -> web.Response:
        """The verdict of this node's half."""
        told = self._told()
        try:
            direction, question = _asked(request.query, told)
        except (KeyError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            return web.json_response({"error": what}, status=400)
        async with self._one:
            try:
                found = await asyncio.to_thread(self._ask, told.node, direction, question)
            except DatapathError as error:
                return web.json_response({"error": str(error)}, status=503)
        judgement = None if found is None else plain(found, Judgement)
        return web.json_response({"node": told.node, "judgement": judgement})

    def _ask(self, node: str, direction: Direction, question: Question) -> Judgement | None:
        with PinnedKernel(self._maps, node) as kernel:
            return kernel.ask(direction, question)


def _asked(query: Any, told: Told) -> tuple[Direction, Question]:
    """The question of a query. KeyError for what is missing, ValueError for what can't be read."""
    names = {one.name.lower(): one for one in Direction}
    if query["direction"] not in names:
        raise ValueError(f"direction {query['direction']!r}: give ingress or egress")
    source, destination = (parse_address(query[name]) for name in ("source", "destination"))
    world = of_told(_about(told, source, destination))
    protocol, port = _number(query, "protocol", _PROTOCOLS), _number(query, "port", _PORTS)
    question = Question(locate(world, source), locate(world, destination), protocol, port)
    return names[query["direction"]], question


def _about(told: Told, *addresses: bytes) -> Told:
    """What a world says of these addresses alone: the whole of it would take long to build."""
    pods = [pod for pod in told.objects["Pod"] if set(getattr(pod, "addresses", ())) & set(addresses)]
    return told._replace(objects={"Pod": tuple(pods), "Node": told.objects["Node"]}, refused=())


def _number(query: Any, name: str, end: int) -> int:
    text = query[name]
    if not text.isdecimal() or int(text) >= end:
        raise ValueError(f"{name} {text!r}: give a number below {end}")
    return int(text)
