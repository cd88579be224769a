# SPDX-License-Identifier: Apache-2.0
"""What other nodes' kernels say: their agents are asked, where they can be reached.

An agent listens on loopback unless its setting ``http`` says otherwise; what can't be asked isn't known.
"""

from __future__ import annotations

import http.client
import json
from urllib.parse import urlencode

from netaccel.explain.live import no_policy
from netaccel.explain.model import Judge
from netaccel.model.address import Address, endpoint_text, text
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
        self._silent: dict[str, str] = {}
        """Nodes whose agents don't answer, and why."""

    def ask(self, direction: Direction, question: Question) -> Judgement | None:
        """The verdict; None where no agent of that node answers."""
        found = self._here.ask(direction, question)
        pod = (question.destination if direction is Direction.INGRESS else question.source).pod
        if found is not None or pod is None or pod.node_name in self._silent:
            return found
        if pod.node_name in ("", self._world.node_name):
            return None
        node = self._world.node(pod.node_name)
        problems = []
        for address in node.addresses if node else ():
            answer = self._of(address, direction, question)
            if not isinstance(answer, str):
                return answer
            problems.append(answer)
        self._silent[pod.node_name] = "; ".join(problems) or f"no address of {pod.node_name} is known"
        return None

    def why_unknown(self, direction: Direction, question: Question) -> str:
        """Of another node's pod: how its agent could be asked."""
        pod = (question.destination if direction is Direction.INGRESS else question.source).pod
        if pod is None or pod.node_name in ("", self._world.node_name):
            return self._here.why_unknown(direction, question)
        if why := self._silent.get(pod.node_name):
            return f"{why}: run it on {pod.node_name}, or see the setting `http` there"
        return no_policy(pod.node_name)

    def _of(self, address: Address, direction: Direction, question: Question) -> Judgement | str | None:
        """The verdict, None where an agent does not know the pod, or why no agent answers."""
        asked = {
            "direction": direction.name.lower(),
            "source": text(question.source.address),
            "destination": text(question.destination.address),
            "protocol": question.protocol,
            "port": question.port,
        }
        at = endpoint_text(address, self._port)
        connection = http.client.HTTPConnection(text(address), self._port, timeout=_PATIENCE)
        try:
            connection.request("GET", f"/api/v1/verdict?{urlencode(asked)}")
            answer = connection.getresponse()
            found = json.loads(answer.read())
            if answer.status != http.client.OK:
                return f"the agent at {at} answers with {found['error']}"
            if found["judgement"] is None:
                return None
            return read(found["judgement"], Judgement)
        except OSError as error:
            return f"no agent answers at {at} ({error.strerror or error})"
        except (http.client.HTTPException, ValueError, KeyError, TypeError):
            return f"what answers at {at} is no agent of this version"
        finally:
            connection.close()
