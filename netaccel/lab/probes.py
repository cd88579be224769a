# SPDX-License-Identifier: Apache-2.0
"""Readiness probes, as far as the lab knows them: httpGet, tcpSocket, exec."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from netaccel.datapath.netlink import inside_namespace
from netaccel.errors import DatapathError
from netaccel.lab.process import Place, environment, interpreter
from netaccel.lab.raw import Object, mapping, mappings, number, string, strings


class Answer(NamedTuple):
    """Whether a probe succeeded, and why not."""

    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """Where probes of one pod run: HTTP and TCP from its node, as a kubelet's do; exec inside."""

    node_namespace: str
    address: str
    inside: Place
    ports: Mapping[str, int]
    environment: Mapping[str, str]


async def probe(spec: Object, target: Target) -> Answer:
    """Run a probe once."""
    timeout = float(number(spec.get("timeoutSeconds"), 1))
    try:
        async with asyncio.timeout(timeout):
            if "httpGet" in spec:
                return await _http(mapping(spec["httpGet"]), target)
            if "tcpSocket" in spec:
                return await _tcp(mapping(spec["tcpSocket"]), target)
            if "exec" in spec:
                return await _exec(strings(mapping(spec["exec"]).get("command")), target)
    except TimeoutError:
        return Answer(False, f"no answer within {timeout:g} s")
    except OSError as error:
        return Answer(False, error.strerror or str(error))
    except DatapathError as error:  # the namespace is gone
        return Answer(False, str(error))
    return Answer(False, "the lab knows httpGet, tcpSocket and exec probes only")


async def connect(namespace: str, address: str, port: int) -> socket.socket:
    """Connect to an address as it is seen in a namespace. Raises OSError."""
    with inside_namespace(namespace):
        found = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    found.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(found, (address, port))
    except BaseException:
        found.close()
        raise
    return found


async def http_get(namespace: str, address: str, port: int, path: str, host: str = "") -> tuple[int, str]:
    """GET a path; return status and body. Raises OSError."""
    reader, writer = await asyncio.open_connection(sock=await connect(namespace, address, port))
    try:
        request = f"GET {path} HTTP/1.1\r\nHost: {host or address}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        head = (await reader.readline()).split(b" ")
        if len(head) < 2 or not head[1].isdigit():
            raise ConnectionError("the answer is not HTTP")
        _, _, body = (await reader.read(1 << 20)).partition(b"\r\n\r\n")
        return int(head[1]), body.decode(errors="replace")
    finally:
        writer.transport.abort()


async def _http(spec: Object, target: Target) -> Answer:
    address = string(spec.get("host")) or target.address
    path = string(spec.get("path")) or "/"
    status, body = await http_get(target.node_namespace, address, _port(spec, target), path)
    first = body.splitlines()[0] if body.strip() else ""
    return Answer(200 <= status < 400, "" if 200 <= status < 400 else f"HTTP {status} {first}".strip())


async def _tcp(spec: Object, target: Target) -> Answer:
    address = string(spec.get("host")) or target.address
    (await connect(target.node_namespace, address, _port(spec, target))).close()
    return Answer(True)


async def _exec(command: list[str], target: Target) -> Answer:
    process = await asyncio.create_subprocess_exec(
        *target.inside.command(interpreter(command)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        env=environment(target.environment),
    )
    try:
        status = await process.wait()
    except asyncio.CancelledError:
        process.kill()
        raise
    return Answer(status == 0, "" if status == 0 else f"exit status {status}")


def _port(spec: Object, target: Target) -> int:
    port = spec.get("port")
    return target.ports.get(port, 0) if isinstance(port, str) else number(port)


def named_ports(container: Object) -> dict[str, int]:
    """Ports of a container by name."""
    return {
        string(p.get("name")): number(p.get("containerPort"))
        for p in mappings(container.get("ports"))
        if string(p.get("name"))
    }
