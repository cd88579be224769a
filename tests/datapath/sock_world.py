# SPDX-License-Identifier: Apache-2.0
"""A node and a pod as far as socket load balancing sees them: two namespaces, one cgroup, real sockets.

Backends are servers on addresses of the pod namespace's loopback. Frontends' addresses have no route: what is
not translated fails with ENETUNREACH.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM
from types import TracebackType
from typing import Any, NamedTuple, Self

from netaccel.datapath import libbpf
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.maps import KernelMaps
from netaccel.datapath.mounts import find_cgroup
from netaccel.datapath.netlink import create_namespace, delete_namespace, inside_namespace, set_sysctl
from netaccel.datapath.plane import SET_RETVAL, kernel_version
from netaccel.model.address import UNSPECIFIED4, UNSPECIFIED6, is_ipv4, parse_address
from netaccel.records import Backend, Frontend, FrontendKey

TCP, UDP = 6, 17
SIZES = {"maglev": 4096, "backends": 4096, "frontends4": 1024, "frontends6": 1024, "services": 1024}
HAS_RETVAL = kernel_version() >= SET_RETVAL
_serial = itertools.count()


def told(number: int) -> int:
    """The errno of a refusal on this kernel: EPERM where a program can't choose one."""
    return number if HAS_RETVAL else errno.EPERM


class Remote:
    """A socket of an actor; methods as those of socket.socket, for str, int and address arguments."""

    def __init__(self, actor: Actor, number: int) -> None:
        self._actor = actor
        self._number = number

    def __getattr__(self, method: str) -> Any:
        return lambda *arguments: self._actor.ask("call", self._number, method, *arguments)


class Actor:
    """A process (sock_actor.py) in a namespace and the world's cgroup."""

    def __init__(self, namespace: str, cgroup: Path) -> None:
        script = Path(__file__).with_name("sock_actor.py")
        command = [sys.executable, str(script), f"/run/netns/{namespace}", str(cgroup)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.cookie: int = self.ask("netns_cookie")

    def ask(self, *request: Any) -> Any:
        """The result of one verb. OSError as it was raised there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "errno" in answer:
            raise OSError(answer["errno"], answer["text"])
        result = answer["result"]
        return tuple(result) if isinstance(result, list) else result

    def socket(self, family: int, kind: int, proto: int = 0) -> Remote:
        return Remote(self, self.ask("open_socket", family, kind, proto))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()


def _own_backend_addresses(namespace: str) -> None:
    """Make every backend's address one of the namespace's own."""
    with inside_namespace(namespace):
        subprocess.run(["ip", "route", "add", "local", "10.77.0.0/16", "dev", "lo"], check=True)
        subprocess.run(["ip", "-6", "route", "add", "local", "fd00:77::/32", "dev", "lo"], check=True)
        set_sysctl("net.ipv6.ip_nonlocal_bind", 1)


class Service(NamedTuple):
    """A frontend under test. ``address`` as text; its backends by name."""

    id: int
    key: FrontendKey
    address: str
    port: int
    backends: dict[str, int]


class World:
    """Node, pod, programs and maps. Use as a context manager."""

    def __init__(self, **settings: int) -> None:
        self._settings = settings
        self._stack = ExitStack()
        self._servers: set[tuple[str, int, int]] = set()

    def __enter__(self) -> Self:
        with self._stack as guard:
            self._build(guard)
            self._stack = guard.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _build(self, guard: ExitStack) -> None:
        name = f"natest-{os.getpid()}-{next(_serial)}"
        self.cgroup = find_cgroup(None) / name
        self.cgroup.mkdir()
        guard.callback(self.cgroup.rmdir)
        for role in ("node", "pod"):
            create_namespace(f"{name}-{role}")
            guard.callback(delete_namespace, f"{name}-{role}")
            _own_backend_addresses(f"{name}-{role}")
        self.node_namespace = Path(f"/run/netns/{name}-node")
        for role in ("node", "pod"):
            actor = Actor(f"{name}-{role}", self.cgroup)
            guard.callback(actor.close)
            setattr(self, role, actor)
        self._load(guard)

    def _load(self, guard: ExitStack) -> None:
        self.pins = Path(guard.enter_context(tempfile.TemporaryDirectory()))
        libbpf.mount("bpf", str(self.pins), "bpf")
        guard.callback(libbpf.unmount, str(self.pins))
        obj = guard.enter_context(BpfObject.named("sock_cgroup"))
        known = {"node_cookie": self.node.cookie, "has_retval": int(HAS_RETVAL)}
        obj.set_constant("settings", known | self._settings)
        for name, size in SIZES.items():
            obj.resize(name, size)
        obj.load()
        for name in obj.map_definitions():
            libbpf.obj_pin(obj.map_fd(name), str(self.pins / name))
        self.maps = KernelMaps.open(self.pins, obj.abi)
        guard.callback(self.maps.close)
        self.constants = obj.abi.constants
        target = os.open(self.cgroup, os.O_RDONLY)
        guard.callback(os.close, target)
        for name in obj.program_names():
            link = libbpf.link_create(obj.program(name).fd, target, obj.attach_type(name))
            guard.callback(os.close, link)

    node: Actor
    pod: Actor

    # ------------------------------------------------------------------ objects

    def service(
        self, family: int, proto: int, backends: tuple[str, ...] = ("a",), flags: str = "", timeout: int = 0
    ) -> Service:
        """A frontend with one server per name; ``flags``: names of enum frontend_flag without the prefix."""
        number = next(_serial) + 1
        address = f"10.96.0.{number}" if family == AF_INET else f"fd00:96::{number:x}"
        key = FrontendKey(parse_address(address), 80, proto)
        made = Service(number, key, address, 80, {})
        for index, name in enumerate(backends):
            made.backends[name] = number * 16 + index
            self.put_backend(made, name)
        self.put_frontend(made, flags, timeout)
        return made

    def backend_address(self, service: Service, name: str) -> str:
        host = service.backends[name] % 16 + 1
        v4 = is_ipv4(service.key.addr)
        return f"10.77.{service.id}.{host}" if v4 else f"fd00:77:{service.id:x}::{host:x}"

    def put_backend(self, service: Service, name: str, state: str = "ACTIVE", generation: int = 1) -> None:
        number = service.backends[name]
        address = self.backend_address(service, name)
        v4 = is_ipv4(service.key.addr)
        self._serve(AF_INET if v4 else AF_INET6, service.key.proto, address, name)
        record = Backend(
            parse_address(address), 8080, service.key.proto, self.constants[f"BACKEND_{state}"], 0, 0, 0,
            service.id, generation,
        )  # fmt: skip
        self.maps.write("backends", [(number, record)])

    def put_frontend(
        self, service: Service, flags: str = "", timeout: int = 0, names: tuple[str, ...] | None = None
    ) -> None:
        """Point the frontend at these backends (all unless told otherwise)."""
        chosen = [service.backends[name] for name in service.backends if names is None or name in names]
        offset = (service.id % 128) * 32
        self.maps.write("maglev", [(offset + i, chosen[i % len(chosen)]) for i in range(31) if chosen])
        kind = self.constants["FRONTEND_CLUSTER_IP"]
        length = 31 if chosen else 0
        value = Frontend(service.id, self._bits(flags), kind, 0, 0, 0, offset, length, timeout)
        self.maps.write("frontends", [(service.key, value)])

    def wildcard(self, service: Service, flags: str = "") -> None:
        """The entry that makes other ports of the address refused."""
        kind = self.constants["FRONTEND_WILDCARD"]
        key = FrontendKey(service.key.addr, 0, 0)
        self.maps.write("frontends", [(key, Frontend(0, self._bits(flags), kind, 0, 0, 0, 0, 0, 0))])

    def _bits(self, flags: str) -> int:
        return sum(self.constants[f"FRONTEND_{flag}"] for flag in flags.split())

    def reserve(self, port: int, proto: int, *families: int, flags: str = "") -> None:
        """A node port on the unspecified address of these families."""
        kind = self.constants["FRONTEND_RESERVED_PORT"]
        for family in families:
            key = FrontendKey(UNSPECIFIED4 if family == AF_INET else UNSPECIFIED6, port, proto)
            self.maps.write("frontends", [(key, Frontend(1, self._bits(flags), kind, 0, 0, 0, 0, 0, 0))])

    def node_port(self, address: str, port: int, proto: int) -> None:
        """A node port on one address, without backends."""
        kind = self.constants["FRONTEND_NODE_PORT"]
        key = FrontendKey(parse_address(address), port, proto)
        self.maps.write("frontends", [(key, Frontend(1, 0, kind, 0, 0, 0, 0, 0, 0))])

    def _serve(self, family: int, proto: int, address: str, name: str) -> None:
        """A server in the namespace of the pod and one in the node's, so that either reaches one."""
        if (address, proto, family) in self._servers:
            return
        self._servers.add((address, proto, family))
        kind = SOCK_STREAM if proto == TCP else SOCK_DGRAM
        for actor in (self.pod, self.node):
            actor.ask("serve", family, kind, address, 8080, name)

    # ------------------------------------------------------------------ reading

    def dropped(self, reason: str) -> int:
        per_cpu = self.maps.dump("drops").get(self.constants[f"DROP_{reason}"], [])
        return sum(traffic.packets for traffic in per_cpu)

    def counter(self, name: str) -> int:
        return sum(self.maps.dump("counters").get(self.constants[f"COUNTER_{name}"], []))

    def counted(self, service: Service) -> tuple[int, int]:
        """Connects and refusals of a service."""
        per_cpu = self.maps.dump("service_counters").get(service.id, [])
        return sum(c.connects for c in per_cpu), sum(c.refused for c in per_cpu)
