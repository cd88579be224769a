# SPDX-License-Identifier: Apache-2.0
"""From settings to a running agent: what can be wrong is found before anything is touched."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import socket
import threading
import time

from netaccel.agent import origin
from netaccel.agent.core import Agent
from netaccel.config import HostPort, Settings
from netaccel.datapath.instance import Instance
from netaccel.datapath.mounts import find_bpffs
from netaccel.datapath.plane import Plane
from netaccel.errors import ConfigError

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Serve until told to stop. NetaccelError where that is not possible."""
    started = time.monotonic()
    opening = origin.choose(settings, os.environ)
    with contextlib.ExitStack() as stack:
        instance = Instance(find_bpffs(settings.bpffs))
        instance.lock()
        stack.callback(instance.unlock)
        listeners = {field: stack.enter_context(_listen(field, at)) for field, at in _addresses(settings)}
        # A quarter of a second of imports, meanwhile: the kernel verifies programs without this process.
        threading.Thread(target=importlib.import_module, args=("netaccel.api.server",)).start()
        plane = stack.enter_context(Plane.start(settings, instance))
        log.info("attached after %.0f ms", 1000 * (time.monotonic() - started))
        try:
            asyncio.run(Agent(settings, instance, plane, started).serve(opening, listeners))
        except BaseExceptionGroup as group:
            raise _first(group) from group
    log.info("stopped; the datapath stays")


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that ended the agent, out of the groups of its tasks."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _addresses(settings: Settings) -> list[tuple[str, HostPort]]:
    found = [("http", settings.http)]
    return [*found, ("metrics", settings.metrics)] if settings.metrics else found


def _listen(field: str, at: HostPort) -> socket.socket:
    """Bind early, so that a wrong address is told before anything is touched."""
    try:
        if at.host in ("", "::") and socket.has_dualstack_ipv6():
            return socket.create_server(("", at.port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server(at, family=socket.AF_INET6 if ":" in at.host else socket.AF_INET)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ConfigError(f"--{field} {at}: {reason}: give another address") from error
