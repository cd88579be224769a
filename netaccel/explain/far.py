# SPDX-License-Identifier: Apache-2.0
"""What other nodes' kernels say: their agents are asked, where they can be reached.

An agent listens on loopback unless its setting ``http`` says otherwise; what can't be asked isn't known.
"""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlencode

from netaccel.explain.model import Judge
from netaccel.model.address import Address, text
from netaccel.model.plain import read
from netaccel.model.policy import Direction
from netaccel.model.snapshot import World
from netaccel.oracle import Judgement, Question

_PATIENCE = 3.0
"""Seconds for an answer: the program is loaded for it."""


class Everywhere:
    """This node's kernel for its own pods, the others' agents for theirs. Implements Judge."""

    def __init__(self, here: Judge, world: World, port: int) -> None:
        """``port``: where every node's agent listens."""
        self._here = here
        self._world = world
        self._port = port
        self._silent: set[str] = set()

    def ask(self, direction: Direction, question: Question) -> Judgement | None:
        """The verdict; None where no agent of that node answers."""
        found = self._here.ask(direction, question)
        pod = (question.destination if direction is Direction.INGRESS else question.source).pod
        if found is not None or pod is None or pod.node_name in self._silent:
            return found
        node = self._world.node(pod.node_name)
        for address in node.addresses if node and node.name != self._world.node_name else ():
            if (answer := self._of(address, direction, question)) is not None:
                return answer
        self._silent.add(pod.node_name)
        return None

    def _of(self, address: Address, direction: Direction, question: Question) -> Judgement | None:
        asked = {
            "direction": direction.name.lower(),
            "source": text(question.source.address),
            "destination": text(question.destination.address),
            "protocol": question.protocol,
            "port": question.port,
        }
        connection = http.client.HTTPConnection(text(address), self._port, timeout=_PATIENCE)
        try:
            connection.request("GET", f"/api/v1/verdict?{urlencode(asked)}")
            answer = connection.getresponse()
            found = json.loads(answer.read())
            if answer.status != http.client.OK or found["judgement"] is None:
                return None
            return read(found["judgement"], Judgement)
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return None  # no agent, or none of this version: not known, which is what is answered
        finally:
            connection.close()
