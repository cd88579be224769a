# SPDX-License-Identifier: Apache-2.0
"""Asks this node's agent over HTTP: for answers that come line by line, for the world that it knows."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlencode

from netaccel.config import HostPort, parse_host_port
from netaccel.errors import ConfigError, DatapathError
from netaccel.model.plain import read_world
from netaccel.model.snapshot import World

Parameters = Sequence[tuple[str, str]]

_PATIENCE = 30.0


def agent_at(http_option: str) -> HostPort:
    """Read ``--http``. ConfigError."""
    try:
        return parse_host_port(http_option)
    except ValueError as error:
        raise ConfigError(f"--http: {error}") from error


@contextmanager
def answer(
    listen: HostPort, path: str, parameters: Parameters, *, endless: bool = False
) -> Iterator[http.client.HTTPResponse]:
    """The agent's answer to GET. ConfigError for what it refuses to be asked, DatapathError for all else.

    ``endless``: an answer may be silent for as long as it likes, once it has begun.
    """
    connection = http.client.HTTPConnection(listen.host or "127.0.0.1", listen.port, timeout=_PATIENCE)
    try:
        connection.request("GET", f"{path}?{urlencode(parameters)}" if parameters else path)
        if endless and connection.sock:
            connection.sock.settimeout(None)
        found = connection.getresponse()
        if found.status != http.client.OK:
            raise _refused(listen, path, found)
        yield found
    except ConnectionRefusedError as error:
        raise DatapathError(
            f"no agent listens at {listen}: start `netaccel agent`, or give --http"
        ) from error
    except BrokenPipeError:  # who reads our output has had enough
        raise
    except (OSError, http.client.HTTPException) as error:
        raise DatapathError(f"http://{listen}{path}: {error}: is it the agent that listens there?") from error
    finally:
        connection.close()


def world_of(listen: HostPort) -> World:
    """Every object that the agent knows."""
    with answer(listen, "/api/v1/world", ()) as found:
        try:
            return read_world(json.loads(found.read()))
        except ValueError as error:
            raise DatapathError(f"http://{listen}/api/v1/world: {error}") from error


def _refused(listen: HostPort, path: str, found: http.client.HTTPResponse) -> Exception:
    body = found.read(65_536)
    try:
        reason = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        if found.status == http.client.NOT_FOUND:
            return DatapathError(
                f"the agent at {listen} has no {path}: it is of another version, or tells no flows"
            )
        return DatapathError(
            f"http://{listen}{path}: status {found.status}: is it the agent that listens there?"
        )
    return ConfigError(reason) if found.status == http.client.BAD_REQUEST else DatapathError(reason)
