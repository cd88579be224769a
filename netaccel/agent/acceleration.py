# SPDX-License-Identifier: Apache-2.0
"""The agent's share in same-node acceleration: what the engine has to know, its thread, what is told of it.

Nothing is loaded before this kernel has passed the self-test, nor where nobody wants it. Pairs that an
earlier agent left go on from socket to socket all the while; where acceleration is off by now, they are
drained.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from netaccel.accelerate import told, wishes
from netaccel.accelerate.clearance import Clearance
from netaccel.accelerate.engine import Engine
from netaccel.accelerate.evidence import Thresholds
from netaccel.accelerate.facts import Facts, LocalPod
from netaccel.accelerate.receipts import RECEIPTS, Ledger
from netaccel.accelerate.view import Carried, Check, Connection, Status, Tier, Totals
from netaccel.accelerate.visits import Visits
from netaccel.agent.facts import unaccelerated
from netaccel.agent.standing import Standing
from netaccel.config import Settings
from netaccel.datapath.accel.programs import Call, why_pod_may_call
from netaccel.datapath.accel.selftest import verdict
from netaccel.datapath.accel.sockets import AccelSockets
from netaccel.datapath.node import NodeView
from netaccel.datapath.pods import Placement
from netaccel.errors import DatapathError
from netaccel.model.endpoint import Namespace, Pod, PodKey
from netaccel.model.event import Delete, Event, ObjectKey, Upsert
from netaccel.model.service import Protocol, Service, ServiceKey
from netaccel.records import AccelSeen
from netaccel.writers.notices import Notice, Scope

log = logging.getLogger(__name__)

_SETTLE = 10.0  # seconds after which the world is as it was told
_SOON = 0.1  # seconds between looks at whether the self-test is over
_WAIT = 1.0  # seconds between looks at what owners want, where nobody wants it
_TRIES = (2.0, 10.0)  # seconds after which a self-test that failed is made again
_AGAIN = 30.0  # seconds after which what failed is tried again
_OWN_MAP = "accel_map"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_T = TypeVar("_T")


def receipts_file(settings: Settings) -> Path:
    """Where this node's receipts are kept."""
    return settings.state / RECEIPTS / f"{quote(settings.node_name, safe='')}.json"


class Acceleration:
    """Implements netaccel.accelerate.view.Acceleration for one agent. Run it in a task, then close it."""

    def __init__(self, standing: Standing, pins: Path, self_test: Callable[[], Sequence[Check]]) -> None:
        """``pins``: folder of the node's maps. ``self_test``: what this kernel does right; blocks."""
        self._agent, self._pins, self._self_test = standing, pins, self_test
        self.file = receipts_file(standing.settings)
        """Where receipts are kept for the next agent."""
        self._thread = ThreadPoolExecutor(1, "acceleration")  # its namespace changes: nobody else's thread
        self._programs: AccelSockets | None = None
        self._engine: Engine | None = None
        self._checks: tuple[Check, ...] = ()
        self._tested = False
        """Whether the self-test was begun."""
        self._problem = ""
        self._idle = False
        """Whether nothing is enrolled, and nothing shall be."""
        self._facts = Facts()
        self._wrong: tuple[wishes.Wrong, ...] = ()
        self._settles = 0.0
        self._seen: tuple[Placement, NodeView] | None = None
        self._spaces: dict[str, Namespace] = {}  # with the annotation; ...
        self._services: dict[ServiceKey, Service] = {}

    # -------------------------------------------------------------------- tasks

    async def run(self) -> None:
        """Accelerate for ever."""
        await self._agent.reconciler.synced.wait()
        await self._agent.reconciler.ready.wait()
        async with asyncio.TaskGroup() as group:
            while True:
                try:
                    pause = await self._turn(group)
                    self._problem = ""
                except DatapathError as error:
                    if str(error) != self._problem:
                        log.warning("acceleration: %s; tried again in %.0f s", error, _AGAIN)
                    self._problem = str(error)
                    pause = _AGAIN
                await asyncio.sleep(pause)

    async def _turn(self, group: asyncio.TaskGroup) -> float:
        """Do what is due; seconds to the next time. DatapathError."""
        if self._changed():
            self._facts = self._known()
        if not self._facts.draining and not self._tested:
            self._tested = True
            group.create_task(self._test(), name="self-test")
        if self._engine is None:
            if not self._facts.joining and (self._idle or not (self._pins / _OWN_MAP).exists()):
                return _SOON if self._tested and not self._checks else _WAIT
            await self._there(self._open)
        engine = self._engine
        assert engine is not None
        await self._there(lambda: engine.round(self._facts))
        self._idle = self._facts.draining and engine.drained()
        if self._idle:  # nobody wants it any more: what is left of it are empty maps
            await self._there(self._close)
            return _WAIT
        return engine.pause

    def _changed(self) -> bool:
        """Whether something may be otherwise than it was in ``_facts``: told lately, or seen by others."""
        agent = self._agent
        seen = (agent.placement, agent.plane.view)
        changed = time.monotonic() < self._settles or seen != self._seen
        self._seen = seen
        return changed

    async def _test(self) -> None:
        """Try the kernel. Pairs that an agent before left are looked after meanwhile."""
        self._checks = await self._tried()
        found = verdict(self._checks)
        if found.reason:
            log.warning("acceleration is off: %s", found.reason)
        for call in sorted(found.broken):
            log.info("this kernel gets %s wrong on accelerated sockets: who may do it stays with TCP", call)
        if (engine := self._engine) is not None:
            await self._there(engine.suspect_anew)
        self._facts = self._known()

    def _may_call(self, processes: Iterable[int]) -> str:
        """Why one of these may do what this kernel gets wrong, as far as that is known by now."""
        broken = verdict(self._checks).broken if self._checks else frozenset[Call]()
        return why_pod_may_call(processes, calls=broken)

    async def _tried(self) -> tuple[Check, ...]:
        """Of the self-test: a machine that is too busy to be tried in time is tried again."""
        for pause in _TRIES:
            checks = tuple(await asyncio.to_thread(self._self_test))
            if verdict(checks).on:
                break
            log.info("acceleration: %s; tried again in %.0f s", verdict(checks).reason, pause)
            await asyncio.sleep(pause)
        else:
            checks = tuple(await asyncio.to_thread(self._self_test))
        return checks

    def _open(self) -> None:
        """On the engine's thread. DatapathError."""
        plane, settings = self._agent.plane, self._agent.settings
        self._programs = programs = AccelSockets.open(self._pins, plane.hz)
        maps, constants = plane.loaded.maps, plane.loaded.abi.constants
        ledger = Ledger(_BOOT.read_text().strip())
        self._restore(ledger)
        engine = Engine(
            programs,
            Visits(plane.hooks.cgroup),
            Clearance(maps, constants),
            Thresholds(rate=settings.accelerate_rate),
            ledger,
            may_splice=self._may_call,
            save=self._save,
            interval=settings.accelerate_interval,
        )
        if adopted := engine.adopt():
            log.info("%d accelerated connections of the agent before go on", adopted)
        self._engine = engine

    def _restore(self, ledger: Ledger) -> None:
        """Go on with the receipts of the agent before."""
        try:
            ledger.load(self.file.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s: receipts of acceleration begin anew: %s", self.file, error)

    def _save(self) -> None:
        """For the next agent. Without it, it counts anew what pairs carried that go on, and no more."""
        assert self._engine is not None
        fresh = self.file.with_suffix(".part")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_bytes(self._engine.accounts.ledger.save())
            fresh.replace(self.file)
        except OSError as error:
            log.debug("%s: %s", self.file, error)

    async def _there(self, action: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, action)

    async def close(self) -> None:
        """Wait for a round under way; pairs go on without us."""
        await asyncio.to_thread(self._thread.shutdown)
        self._close()

    def _close(self) -> None:
        if self._engine:
            self._save()
        if self._programs:
            self._programs.close()
        self._engine = self._programs = None

    # -------------------------------------------------------------------- facts

    def hear(self, event: Event) -> None:
        """Learn which Namespaces and Services have the annotation, of all there are."""
        self._settles = time.monotonic() + _SETTLE  # what is heard is not in the world yet
        match event:
            case Upsert(object=Service() as service) if service.accelerate:
                self._services[service.key] = service
            case Upsert(object=Namespace() as space) if space.accelerate:
                self._spaces[space.name] = space
            case Upsert(key=key) | Delete(key=key) if key.kind == "Service":
                self._services.pop(ServiceKey(key.namespace, key.name), None)
            case Upsert(key=key) | Delete(key=key) if key.kind == "Namespace":
                self._spaces.pop(key.name, None)

    def _known(self) -> Facts:
        """The cluster, now."""
        agent = self._agent
        world, settings = agent.reconciler.world, agent.settings
        pods = [pod for pod in world.pods(settings.node_name) if pod.addresses and not pod.host_network]
        annotated = list(self._services.values())
        backed = [(key, self._ports(key)) for key in self._backed(pods)]
        asks = wishes.wishes(
            settings.accelerate,
            pods,
            self._spaces.values(),
            annotated,
            wishes.endpoints(pods, [*backed, *wishes.selected(pods, annotated)]),
        )
        self._tell(asks.wrong)
        kernel_fails = bool(self._checks) and not verdict(self._checks).on
        devices = agent.placement.devices
        local = (LocalPod(pod.key, pod.addresses, devices.get(pod.key, 0), pod.shaped) for pod in pods)
        return Facts(
            pods={pod.key: pod for pod in local},
            wishes=asks,
            of_node=frozenset(agent.plane.view.local),
            policy=settings.policy == "on",
            draining=not asks.any_enabled or kernel_fails,
            joining=asks.any_enabled and bool(self._checks) and not kernel_fails,
        )

    def _backed(self, pods: Sequence[Pod]) -> list[ServiceKey]:
        """Services that have one of these pods among their endpoints."""
        flows, world = self._agent.flows, self._agent.reconciler.world
        if flows is None:
            return list(world.services())
        addresses = {address for pod in pods for address in pod.addresses}
        names = {name for address in addresses for name in flows.directory.end(address).endpoint_of}
        return [ServiceKey(*name.split("/", 1)) for name in sorted(names)]

    def _ports(self, key: ServiceKey) -> list[tuple[bytes, int]]:
        return [
            (endpoint.address, port.port)
            for one in self._agent.reconciler.world.slices(key)
            for endpoint in one.endpoints
            for port in one.ports
            if port.protocol is Protocol.TCP
        ]

    def _tell(self, wrong: tuple[wishes.Wrong, ...]) -> None:
        for one in set(wrong) - set(self._wrong):
            log.warning("%s", one)
        self._wrong = wrong

    def notices(self) -> list[Notice]:
        """The same, for Events."""
        return [
            Notice(
                one.key,
                "WrongAnnotation",
                one.reason,
                Scope.NODE if one.key.kind == "Pod" else Scope.CLUSTER,
                self._uid(one.key),
            )
            for one in self._wrong
        ]

    def _uid(self, key: ObjectKey) -> str:
        world = self._agent.reconciler.world
        found: Pod | Namespace | Service | None
        match key.kind:
            case "Pod":
                found = world.pod(PodKey(key.namespace, key.name))
            case "Namespace":
                found = self._spaces.get(key.name)
            case _:
                found = self._services.get(ServiceKey(key.namespace, key.name))
        return found.uid if found else ""

    def warnings(self) -> list[str]:
        """Annotations that mean nothing."""
        return [str(one) for one in self._wrong]

    # ---------------------------------------------------------------- questions

    def status(self) -> Status:
        """See netaccel.accelerate.view."""
        agent, engine = self._agent, self._engine
        without = unaccelerated(agent.settings, agent.peer_tier())
        found = verdict(self._checks) if self._checks else None
        on = engine is not None and self._facts.joining and not self._problem
        reason = self._problem or (found.reason if found else "")
        return Status(
            node=agent.settings.node_name,
            peer=without.peer,
            socket=Tier(on, "" if on else reason or without.socket.reason, without.socket.asked),
            checks=self._checks,
            totals=told.totals(engine) if engine else Totals(),
            receipts=engine.accounts.ledger.receipts() if engine else (),
            unreachable=tuple(
                f"{key.namespace}/{key.name}: {why}" for key, why in sorted(self._unreachable().items())
            ),
            through_stack=agent.through_stack(),
        )

    def connections(self, pod: str | None) -> Sequence[Connection]:
        """See netaccel.accelerate.view."""
        return self._ask(lambda: self._connections(pod)) if self._engine else []

    def path_of(self, src: bytes, sport: int, dst: bytes, dport: int) -> Carried | None:
        """See netaccel.accelerate.view."""
        engine = self._engine
        return engine.accounts.paths.find(src, sport, dst, dport) if engine else None

    def _ask(self, question: Callable[[], _T]) -> _T:
        """On the engine's thread, between two rounds."""
        return self._thread.submit(question).result()

    def _unreachable(self) -> dict[PodKey, str]:
        return self._engine.unreachable if self._engine else {}

    def _connections(self, pod: str | None) -> list[Connection]:
        engine = self._engine
        assert engine is not None
        assert self._programs is not None
        programs = self._programs
        if pod in {f"{key.namespace}/{key.name}" for key in engine.unreachable}:
            engine.meet_again()
        seen: dict[str, list[AccelSeen]] = {}
        for namespace in list(engine.visits.there.values()):
            if (key := namespace.pod) is not None:
                found = engine.visits.inside(namespace, lambda: programs.scan(everything=True))
                seen[f"{key.namespace}/{key.name}"] = found or []
        shown = told.connections(engine, pod, seen)
        peers = self._agent.peers
        return [peers.with_path(one) for one in shown] if peers else shown
