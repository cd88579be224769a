# SPDX-License-Identifier: Apache-2.0
"""Namespaces and wires for one test, taken down with it; sockets and programs inside them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from netaccel.datapath import libbpf
from netaccel.datapath.attach import has_tcx
from netaccel.lab.handle import wait_for

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
TCX_INGRESS, TCX_EGRESS = 46, 47
_numbers = iter(range(1, 10000))


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def attach_tc(device: str, hook: int, program_fd: int) -> Callable[[], None]:
    """By tcx, or by a clsact filter where the kernel has none. What takes it off, in this namespace too."""
    ifindex = socket.if_nametoindex(device)
    if has_tcx():
        return partial(os.close, libbpf.link_create(program_fd, ifindex, hook))
    point = libbpf.TC_INGRESS if hook == TCX_INGRESS else libbpf.TC_EGRESS
    libbpf.tc_hook_create(ifindex)
    libbpf.tc_attach(ifindex, point, program_fd, 1, 1)
    return partial(libbpf.tc_detach, ifindex, point, 1, 1)


class Net:
    """Namespaces that know each other by short names and live as long as the ``with``."""

    def __init__(self) -> None:
        self._prefix = f"nt{os.getpid()}x{next(_numbers)}"
        self._names: list[str] = []
        self._stack = ExitStack()

    def __enter__(self) -> Net:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for name in self._names:
            run("ip", "netns", "del", self._full(name), check=False)

    def _full(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def namespace(self, *names: str) -> None:
        for name in names:
            run("ip", "netns", "add", self._full(name))
            self._names.append(name)
            self.sysctl(name, "net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0")
            self.ip(name, "link set lo up")

    def sysctl(self, name: str, *settings: str) -> None:
        self.execute(name, "sysctl", "-qw", *settings)

    def forwarding(self, *names: str) -> None:
        for name in names:
            self.sysctl(name, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def ip(self, name: str, *commands: str) -> str:
        return "".join(run("ip", "-n", self._full(name), *c.split()) for c in commands)

    def execute(self, name: str, *command: str) -> str:
        return run("ip", "netns", "exec", self._full(name), *command)

    def wire(self, left: tuple[str, str], right: tuple[str, str], mtu: int = 1500) -> None:
        """A veth pair between (namespace, device)s that carries, addresses by :meth:`address`."""
        (a, a_dev), (b, b_dev) = left, right
        run("ip", "link", "add", a_dev, "mtu", str(mtu), "netns", self._full(a), "type", "veth",
            "peer", "name", b_dev, "mtu", str(mtu), "netns", self._full(b))  # fmt: skip
        self.ip(a, f"link set {a_dev} up")
        self.ip(b, f"link set {b_dev} up")
        for name, device in (left, right):  # what is sent before the kernel has noticed is lost
            wait_for(partial(self._carries, name, device), f"{device} of {name} to carry", 60)

    def _carries(self, name: str, device: str) -> bool:
        return bool(json.loads(self.ip(name, f"-j link show {device}"))[0]["operstate"] == "UP")

    def address(self, name: str, device: str, *addresses: str) -> None:
        for a in addresses:
            self.ip(name, f"addr add {a} dev {device}" + (" nodad" if ":" in a else ""))

    def offloads_off(self, name: str, device: str, *features: str) -> None:
        """What the device then can't do is completed by the kernel before it sends, as on a real wire."""
        self.execute(name, "ethtool", "-K", device, *(f for x in features for f in (x, "off")))

    def inside(self, name: str, work: Callable[[], T]) -> T:
        """The result of ``work`` done in the namespace by a thread of its own."""
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                fd = os.open(f"/run/netns/{self._full(name)}", os.O_RDONLY)
                try:
                    libbpf.setns(fd, CLONE_NEWNET)
                finally:
                    os.close(fd)
                results.append(work())
            except BaseException as error:  # noqa: BLE001  # handed to the caller
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def socket(self, name: str, family: int, kind: int) -> socket.socket:
        """A socket of the namespace, closed with the net; its calls time out after twenty seconds."""
        made = self._stack.enter_context(self.inside(name, lambda: socket.socket(family, kind)))
        made.settimeout(20)
        return made

    def ifindex(self, name: str, device: str) -> int:
        return self.inside(name, lambda: socket.if_nametoindex(device))

    def attach(self, name: str, device: str, hook: int, program_fd: int) -> None:
        """Attach a TC program until the net is taken down."""
        detach = self.inside(name, lambda: attach_tc(device, hook, program_fd))
        self._stack.callback(self.inside, name, detach)

    def snmp(self, name: str, counter: str) -> int:
        """A counter of ``nstat``, such as ``TcpInCsumErrors``."""
        for line in self.execute(name, "nstat", "-az", counter).splitlines():
            words = line.split()
            if words[0] == counter:
                return int(words[1])
        raise AssertionError(f"no counter {counter}")
