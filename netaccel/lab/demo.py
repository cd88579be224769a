# SPDX-License-Identifier: Apache-2.0
"""``make demo``: the tour. Every step does something, looks at what came of it, and says what that proves."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

import netaccel
from netaccel.datapath import libbpf
from netaccel.datapath.attach import Attacher
from netaccel.datapath.instance import Instance
from netaccel.errors import LabError, NetaccelError
from netaccel.lab import cgroups, lifecycle, topology
from netaccel.lab.acceltour import AccelTour
from netaccel.lab.figures import lines
from netaccel.lab.handle import Lab, wait_for
from netaccel.lab.plan import CLIENT4, CLIENT6, paths
from netaccel.lab.policytour import PolicyTour
from netaccel.lab.server import digest
from netaccel.lab.state import State
from netaccel.lab.tour import Shown, hold

NAME = "demo"
EXAMPLES = Path(netaccel.__file__).parents[1] / "examples"
_CLUSTER_IPS = ("http://10.96.0.10", "http://[fd00:10:96::10]")
_IDLE_NODE = "node-2"  # no backend of web is on it
_NODE_PORTS = ("http://172.30.0.12:30080", "http://[fd00:30::12]:30080")
_OUTSIDE = ("http://203.0.113.10", "http://[2001:db8:203::10]")
_POD = "pod:default/web-0"
_DOWNLOAD, _RATE = 48_000_000, 8_000_000  # bytes, and bytes a second: six seconds
_UDP = """
import json, socket, sys
for family, address in ((socket.AF_INET, sys.argv[1]), (socket.AF_INET6, sys.argv[2])):
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.settimeout(3)
        udp.sendto(b"hello", (address, int(sys.argv[3])))
        answer, sender = udp.recvfrom(2048)
        print(json.dumps({**json.loads(answer), "sender": sender[0]}))
"""


class Tour:
    """The steps, in order. A step that does not hold raises LabError and the tour goes on."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder

    def steps(self) -> Iterator[tuple[str, str, Callable[[], Shown]]]:
        """Title, what to type for the same, and the step."""
        run = f"netaccel lab exec --name {NAME}"
        yield "A pod reaches a ClusterIP", f"{run} {_POD} -- curl {_CLUSTER_IPS[0]}/", self.cluster_ip
        yield (
            "The outside client reaches a NodePort of a node that has no backend",
            f"{run} client -- curl {_NODE_PORTS[0]}/",
            self.node_port,
        )
        yield "It reaches the load-balancer addresses", f"{run} client -- curl {_OUTSIDE[0]}/", self.outside
        yield "UDP, from a pod and from outside", "examples/echo.yaml", self.udp
        yield "Connections spread over the backends", f"{run} client -- curl {_NODE_PORTS[0]}/", self.spread
        yield (
            "kill -9 of the agent in the middle of a download",
            f"{run} client -- curl '{_NODE_PORTS[0]}/bytes?n={_DOWNLOAD}&rate={_RATE}' | sha256sum",
            self.killed_agent,
        )
        yield "A backend is taken away", "web-2 removed from web.yaml", self.backend_removed
        yield "A broken object harms only itself", f"{run} node-1 -- netaccel status", self.broken_object
        yield "What the kernel's maps hold", f"{run} node-1 -- netaccel service list", self.service_list
        yield "Counters", f"{run} {_IDLE_NODE} -- curl http://127.0.0.1:9962/metrics", self.metrics
        yield from PolicyTour(self.lab, self.folder, _CLUSTER_IPS).steps(run)
        yield from AccelTour(self.lab, self.folder).steps(run)

    # ---------------------------------------------------------------- steps

    def cluster_ip(self) -> Shown:
        """Socket load balancing: the server sees the pod's own address."""
        before = self._connects("node-1")
        details = []
        for url, address in zip(_CLUSTER_IPS, self._pod_addresses("web-0"), strict=True):
            facts = self.lab.answer(_POD, url)
            hold(facts["client"] == address, f"the server saw {facts['client']}, not the pod's {address}")
            details.append(_told(facts))
        after = self._connects("node-1")
        hold(after - before == 2, f"connects translated: {before} before, {after} after")
        return Shown(
            "the server saw the pod's own address: translated at connect(), no NAT on the way"
            f" (connects translated on node-1: {before} → {after})",
            tuple(details),
        )

    def node_port(self) -> Shown:
        """XDP: the idle node forwards to another one, and its XDP counters move."""
        before = self._xdp_packets(_IDLE_NODE)
        details = []
        for url in _NODE_PORTS:
            facts = self.lab.answer("client", url)
            hold(facts["node"] != _IDLE_NODE, f"{_IDLE_NODE} has a backend")
            details.append(_told(facts))
        after = self._xdp_packets(_IDLE_NODE)
        hold(after > before, f"no packet went by XDP on {_IDLE_NODE}: {before} before, {after} after")
        return Shown(
            f"{_IDLE_NODE} sent it on before its stack saw a packet"
            f" (packets by XDP there: {before} → {after})",
            tuple(details),
        )

    def outside(self) -> Shown:
        """Load-balancer addresses, routed to all nodes by flow."""
        answers = [self.lab.answer("client", url) for url in _OUTSIDE]
        return Shown(
            f"both families, by whichever node the router chose: {', '.join(a['pod'] for a in answers)}",
            tuple(map(_told, answers)),
        )

    def udp(self) -> Shown:
        """Datagrams; the pod sees the Service's address as the sender of answers."""
        details = []
        inside = self._udp(_POD, "10.96.0.20", "fd00:10:96::20", 7)
        for facts, service in zip(inside, ("10.96.0.20", "fd00:10:96::20"), strict=True):
            hold(facts["sender"] == service, f"the answer came from {facts['sender']}, not {service}")
        for facts in (*inside, *self._udp("client", "172.30.0.12", "fd00:30::12", 30007)):
            hold(facts["payload"] == "hello", f"the payload came back as {facts['payload']!r}")
            details.append(_told(facts))
        return Shown("answers come from the address that was asked, in both families", tuple(details))

    def spread(self) -> Shown:
        """Every backend gets its share."""
        count = 60
        found = self._spread("client", _NODE_PORTS[0], count)
        hold(set(found) == {"web-0", "web-1", "web-2"}, f"answers came from {dict(found)}")
        return Shown(f"{count} connections: {_counts(found)}")

    def killed_agent(self) -> Shown:
        """Programs, links and maps stay in the kernel."""
        download = f"curl -sS '{_NODE_PORTS[0]}/bytes?n={_DOWNLOAD}&rate={_RATE}' | sha256sum"
        process = self.lab.popen("client", "sh", "-c", download)
        try:
            time.sleep(1.5)
            hold(process.poll() is None, "the download ended before the agent was killed")
            killed = self.lab.agent_pid(_IDLE_NODE)
            hold(killed > 0, f"no agent runs on {_IDLE_NODE}")
            os.kill(killed, signal.SIGKILL)
            served, restarted = self._serve_until_restarted(killed)
            goes_on = process.poll() is None
            output, complaint = process.communicate(timeout=60)
        finally:
            process.kill()
            process.communicate()
        hold(output.split()[:1] == [digest(_DOWNLOAD)], f"the download is damaged: {output}{complaint}")
        return Shown(
            f"{_DOWNLOAD // 1_000_000} MB through {_IDLE_NODE} arrived whole (sha256 as expected)",
            (
                f"agent {killed} killed; {served} new connections served until its successor"
                f" {restarted} was ready, {'before' if goes_on else 'after'} the download's end",
            ),
        )

    def backend_removed(self) -> Shown:
        """Its endpoint is first terminating, then gone; nobody notices."""
        file = self.folder / "web.yaml"
        kept = [text for text in file.read_text().split("---\n") if "name: web-2\n" not in text]
        fresh = self.folder / ".web.new"
        fresh.write_text("---\n".join(kept))
        fresh.replace(file)
        served = 0
        deadline = time.monotonic() + 30
        while any(p["name"] == "web-2" for p in self.lab.status()["pods"]):
            hold(time.monotonic() < deadline, "web-2 is still there after 30 s")
            served += sum(self._spread("client", _NODE_PORTS[0], 5).values())
        wait_for(lambda: self._usable() == {2}, "every frontend of web with two backends")
        found = self._spread("client", _NODE_PORTS[0], 40)
        hold(set(found) == {"web-0", "web-1"}, f"answers came from {dict(found)}")
        return Shown(
            f"{served} connections while web-2 ended, none failed; then {_counts(found)}",
        )

    def broken_object(self) -> Shown:
        """The agent says which object, where, and why, until it is gone."""
        told = self._broken()
        hold(bool(told), "the agent does not speak of the broken object")
        hold("123456" in told[0], f"the reason is missing: {told[0]}")
        (self.folder / "broken.yaml").unlink()  # nobody relies on files that can't be used: see explain
        wait_for(lambda: not self._broken(), "the broken object forgotten", 15)
        return Shown(told[0])

    def _broken(self) -> list[str]:
        refused = self.lab.api("node-1", "/status")["refused"]
        return [f"{r['object']}: {r['where']}: {r['reason']}" for r in refused if "broken" in r["object"]]

    def service_list(self) -> Shown:
        """Read from the maps, not from what was meant."""
        done = self.lab.run("node-1", "netaccel", "service", "list")
        hold(done.returncode == 0 and "web" in done.stdout, done.stderr.strip() or done.stdout)
        return Shown("every frontend, its backends, its counters", tuple(done.stdout.splitlines()))

    def metrics(self) -> Shown:
        """By Service and path."""
        page = self.lab.metrics(_IDLE_NODE)
        shown = lines(page, "netaccel_service_packets_total", "netaccel_rejected_objects")
        hold(bool(shown), "no packet was counted")
        return Shown(f"packets by Service, direction and path on {_IDLE_NODE}", tuple(shown))

    # -------------------------------------------------------------- helpers

    def _ports(self, node: str) -> list[dict[str, Any]]:
        """Ports of web as a node's maps hold them, one a family."""
        found: list[dict[str, Any]] = self.lab.api(node, "/api/v1/services/default/web")["ports"]
        return found

    def _connects(self, node: str) -> int:
        return sum(port["counters"]["connects"] for port in self._ports(node))

    def _xdp_packets(self, node: str) -> int:
        return sum(port["counters"]["xdp"]["request"]["packets"] for port in self._ports(node))

    def _pod_addresses(self, name: str) -> list[str]:
        return next(p["addresses"] for p in self.lab.status()["pods"] if p["name"] == name)

    def _udp(self, target: str, ipv4: str, ipv6: str, port: int) -> list[dict[str, Any]]:
        done = self.lab.run(target, "python3", "-c", _UDP, ipv4, ipv6, str(port))
        hold(done.returncode == 0, done.stderr.strip().splitlines()[-1] if done.stderr else "no answer")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def _spread(self, target: str, url: str, count: int) -> Counter[str]:
        """Which pods answer so many new connections, one after the other."""
        config = f'url = "{url}/json"\n' * count
        done = self.lab.run(
            target, "curl", "-sS", "-m", "5", "-H", "Connection: close", "-K", "-", stdin=config, timeout=60
        )
        hold(done.returncode == 0, done.stderr.strip())
        return Counter(json.loads(line)["pod"] for line in done.stdout.splitlines())

    def _serve_until_restarted(self, killed: int) -> tuple[int, int]:
        """Open new connections until another agent is ready; return how many, and its pid."""
        served = 0
        deadline = time.monotonic() + 60
        while True:
            served += sum(self._spread("client", _NODE_PORTS[0], 5).values())
            agent = next(n["agent"] for n in self.lab.status()["nodes"] if n["name"] == _IDLE_NODE)
            if agent["ready"] and agent["pid"] != killed:
                return served, agent["pid"]
            hold(time.monotonic() < deadline, f"no new agent after 60 s: {agent['message']}")

    def _usable(self) -> set[int]:
        """How many active backends web has on the idle node: one figure if its families agree."""
        return {
            sum(backend["state"] == "active" for backend in port["backends"])
            for port in self._ports(_IDLE_NODE)
        }


def _told(facts: dict[str, Any]) -> str:
    return f"{facts['pod']} on {facts['node']} saw {facts['client']} at {facts['local']}"


def _counts(found: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(found.items()))


def run_demo(*, keep: bool) -> int:
    """Bring a lab up, take the tour, take it down; return 0 only if every step held."""
    console = Console(highlight=False, soft_wrap=True)
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="netaccel-demo-") as scratch:
            folder = Path(scratch) if not keep else paths(NAME).manifests
            failed = _tour(console, folder)
            if keep:
                _look_around(console, folder)
            else:
                failed += _take_down(console)
    except NetaccelError as error:
        console.print(f"[red]✗[/] {escape(str(error))}")
        failed = 1
    except KeyboardInterrupt:
        failed = 1
    finally:
        if not keep:
            lifecycle.down(NAME, lambda _: None)
    verdict = "[red]did not hold[/]" if failed else "[green]every step held[/]"
    console.print(f"{verdict}, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


def _tour(console: Console, folder: Path) -> int:
    """Return how many steps did not hold."""
    if not EXAMPLES.is_dir():
        raise LabError(f"{EXAMPLES} is missing: run the demo from a checkout of the project")
    console.print("[bold]netaccel: three nodes, an outside client, four pods, on this machine[/]")
    if lifecycle.is_running(NAME):
        raise LabError(f"a lab {NAME} is up: `netaccel lab down --name {NAME}` first, or look around in it")
    lifecycle.down(NAME, lambda said: None if "no lab" in said else console.print(f"an earlier {said}"))
    begun = time.monotonic()
    state = State(NAME, 3, str(folder))
    lifecycle.up(state, console.print, prepare=lambda: _copy_examples(folder))
    console.print(
        f"[green]✓[/] [bold]The lab is up[/]: agents and pods ready after {time.monotonic() - begun:.1f} s"
        f" (client {CLIENT4} and {CLIENT6})"
    )
    failed = 0
    for title, command, step in Tour(Lab(NAME), folder).steps():
        try:
            shown = step()
        except (NetaccelError, OSError, ValueError, KeyError) as error:
            failed += 1
            console.print(f"[red]✗ {title}[/]: {escape(str(error) or repr(error))}")
            continue
        console.print(f"[green]✓[/] [bold]{title}[/]: {escape(shown.proof)}")
        console.print(f"    [cyan]{escape(command)}[/]")
        for line in shown.details:
            console.print(f"    [dim]{escape(line)}[/]")
    return failed


def _copy_examples(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in EXAMPLES.glob("*.yaml"):
        (folder / path.name).write_bytes(path.read_bytes())


def _take_down(console: Console) -> int:
    lab = Lab(NAME)
    links = {
        info.id
        for node in lab.plan.nodes
        for info in Attacher(Instance(lab.paths.bpffs / node.name)).attached().values()
    }
    lifecycle.down(NAME, lambda _: None)
    left = [f"namespace {name}" for name in topology.existing(NAME)]
    left += [str(path) for path in (cgroups.lab_root(NAME), paths(NAME).root) if path.exists()]
    left += [f"bpf link {number}" for number in sorted(links & set(libbpf.ids("link")))]
    if left:
        console.print(f"[red]✗ Left behind[/]: {', '.join(left)}")
        return 1
    console.print(
        f"[green]✓[/] [bold]All taken down[/]: no namespace, cgroup, process or file is left,"
        f" and none of {len(links)} attached programs"
    )
    return 0


def _look_around(console: Console, folder: Path) -> None:
    console.print(f"\n[bold]The lab stays up.[/] Its manifests are in {folder}: edit them, it follows.")
    for command in (
        f"netaccel lab status --name {NAME}",
        f"netaccel lab exec --name {NAME} node-1 -- netaccel service list",
        f"netaccel lab exec --name {NAME} node-2 -- netaccel map dump flows",
        f"netaccel lab exec --name {NAME} client -- curl {_NODE_PORTS[0]}/",
        f"netaccel lab exec --name {NAME} {_POD} -- curl {_CLUSTER_IPS[0]}/json",
        f"netaccel lab down --name {NAME}",
    ):
        console.print(f"    [cyan]{escape(command)}[/]")


if __name__ == "__main__":
    raise SystemExit(run_demo(keep=os.environ.get("KEEP", "") not in ("", "0")))
