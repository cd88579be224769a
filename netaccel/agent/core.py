# SPDX-License-Identifier: Apache-2.0
"""One agent and its tasks."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from netaccel.accelerate.receipts import RECEIPTS
from netaccel.agent.acceleration import Acceleration
from netaccel.agent.devices import DeviceFollower
from netaccel.agent.enforcement import Enforcement
from netaccel.agent.facts import node_facts
from netaccel.agent.flows import FlowWatch, redirections
from netaccel.agent.origin import Opening
from netaccel.agent.peers import PeerWays
from netaccel.agent.publish import Publisher
from netaccel.agent.report import Answers
from netaccel.agent.standing import Standing
from netaccel.agent.takeover import TakeOver
from netaccel.apiserver.api import Api
from netaccel.config import Settings
from netaccel.datapath import libbpf, rtnetlink
from netaccel.datapath.accel import selftest
from netaccel.datapath.instance import Instance
from netaccel.datapath.plane import Plane
from netaccel.datapath.pods import Placement
from netaccel.datapath.probe import probe
from netaccel.datapath.sockets import SocketReaper, open_destroyer
from netaccel.errors import DatapathError
from netaccel.model.endpoint import Node, Pod, PodKey
from netaccel.model.event import Delete, Event, Reject, Source, SourceStatus, Upsert
from netaccel.model.plain import told
from netaccel.observe.conntrack import Expiry, sweep
from netaccel.observe.edges.recorder import EDGES, EdgeRecorder
from netaccel.observe.edges.told import EdgeListener
from netaccel.observe.figures import Tally
from netaccel.observe.policyflows import PolicyCensus, PolicyExpiry
from netaccel.observe.policyflows import sweep as sweep_policy
from netaccel.reconcile import PolicyReport, Reconciler, Report

if TYPE_CHECKING:
    from netaccel.api.health import HealthServers

log = logging.getLogger(__name__)

_PATIENCE = 5.0  # seconds in which an agent that starts well has the first state in its maps
_REMEMBER = 30.0  # seconds between notes of how fresh the state in force is
_FILLED = ("frontends4", "frontends6", "services", "backends", "maglev", "source_ranges")
HEARD = "heard"
"""The note that outlives the agent: seconds since the epoch at which its source was last current."""


class Agent:
    """One node's agent. :meth:`serve` runs it; ``answers`` says how it is."""

    def __init__(self, settings: Settings, instance: Instance, plane: Plane, started: float) -> None:
        take_over = TakeOver.begin(settings, plane)
        self._facts = node_facts(settings, plane.view, None)
        policies = Enforcement(settings, plane) if settings.policy == "on" else None
        reconciler = Reconciler(
            plane.loaded.maps,
            plane.loaded.abi.constants,
            self._facts,
            mode=take_over.mode,
            compare_interval=settings.compare_interval,
            on_backends_removed=self._reap,
            on_report=self._account,
            policies=policies.engine if policies else None,
            on_policy_report=self._policies_passed,
        )
        heard_before = float(instance.note(HEARD) or 0)
        self.standing = Standing(settings, plane, reconciler, take_over, started, heard_before)
        self._flow_watch = FlowWatch.begin(settings, plane, instance)
        if self._flow_watch:
            self.standing.flows = self._flow_watch.flows
            self.standing.flows.ask_redirections(redirections(lambda: self.standing.acceleration))
            self.standing.notes.append(self._flow_watch.notes)
        self._begin_record(instance)
        self.answers = Answers(self.standing)
        self._settings, self._plane, self._reconciler = settings, plane, reconciler
        self._instance = instance
        self._expiry = Expiry(settings.timeouts, plane.loaded.abi.constants, plane.hz)
        self._fill = Tally(
            lambda: {name: plane.loaded.maps.count(name) for name in _FILLED}, self.standing.written
        )
        self._node_object: Node | None = None
        self._devices = DeviceFollower(plane, self)
        self._policies = policies
        if policies:
            policies.join(reconciler)
            self.standing.policies = policies
            self.standing.warnings.append(policies.warnings)
            self._policy_expiry = PolicyExpiry(settings.timeouts, plane.loaded.abi.constants, plane.hz)
        self._acceleration = Acceleration(self.standing, instance.maps, selftest.run)
        self.standing.acceleration = self._acceleration
        instance.write_note(RECEIPTS, str(self._acceleration.file.absolute()))
        self.standing.warnings.append(self._acceleration.warnings)
        self.standing.notices.append(self._acceleration.notices)
        self._peers = self.standing.peers = PeerWays(plane, self.pods, self._is_ready)
        if self.standing.flows:
            self.standing.flows.ask_way(self._peers.way)
        self._reaper: SocketReaper | None = None
        self._health: HealthServers | None = None
        self._publisher: Publisher | None = None

    def _begin_record(self, instance: Instance) -> None:
        """Record edges where flows are told: with policy on."""
        standing = self.standing
        if standing.settings.policy == "off":
            return
        standing.edges = edges = EdgeRecorder.of(standing.settings)
        standing.notes.append(edges.notes)
        instance.write_note(EDGES, str(edges.path.absolute()))
        if flows := standing.flows:
            flows.log.listeners.append(EdgeListener(edges, standing.reconciler.world.pod))
            edges.missed = lambda: flows.account().lost

    async def serve(self, opening: Opening, listeners: dict[str, socket.socket]) -> None:
        """Run everything until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            async with opening() as origin, asyncio.TaskGroup() as group:
                self.standing.source = origin.source
                source = _Told(origin.source, self._hear)
                take_over = self.standing.take_over
                tasks = [
                    group.create_task(self._reconciler.run(source), name="reconciler"),
                    group.create_task(self._answer(listeners), name="api"),
                    group.create_task(self._answer_health(), name="health"),
                    group.create_task(self._publish(origin.api), name="publish"),
                    group.create_task(take_over.run(self._reconciler), name="take-over"),
                    group.create_task(self._devices.run(), name="devices"),
                    group.create_task(self._place_first(), name="first placement"),
                    group.create_task(_every(self._settings.sweep_interval, self._sweep), name="sweep"),
                    group.create_task(_every(_REMEMBER, self._remember), name="remember"),
                    group.create_task(self._look_at_kernel(), name="features"),
                    group.create_task(self._peers.run(), name="peers"),
                    group.create_task(self._record_edges(), name="edges"),
                    group.create_task(self._acceleration.run(), name="acceleration"),
                ]
                if self._flow_watch:
                    tasks.append(group.create_task(self._watch_flows(self._flow_watch), name="flows"))
                await stop.wait()
                for task in tasks:
                    task.cancel()
        finally:
            if self._reaper:
                await self._reaper.close()
            await self._acceleration.close()
            if self._flow_watch:
                self._flow_watch.close()

    # ---------------------------------------------------------------- tasks

    async def _answer(self, listeners: dict[str, socket.socket]) -> None:
        from netaccel.api.accel import AccelRoutes  # see start.run()
        from netaccel.api.explain import ExplainRoutes
        from netaccel.api.policy import PolicyRoutes
        from netaccel.api.server import application, serving

        answers = self.answers
        policy = PolicyRoutes(
            lambda: told(self._reconciler.world), self.standing.edges, answers.policy_facts, answers.decided
        )
        accel = AccelRoutes(lambda: self.standing.acceleration, answers.unaccelerated, answers.pods)
        explain = ExplainRoutes(lambda: told(self._reconciler.world), self._instance.maps)
        async with contextlib.AsyncExitStack() as stack:
            for field, listener in listeners.items():
                app = application(
                    self.answers,
                    metrics_only=field == "metrics",
                    policy=policy,
                    explain=explain,
                    accel=accel,
                    flows=self.standing.flows,
                )
                await stack.enter_async_context(serving(app, listener))
            await asyncio.Event().wait()

    async def _answer_health(self) -> None:
        from netaccel.api.health import HealthServers, wanted  # see start.run()

        ports = wanted(self._settings)
        if ports.any:
            reconciler = self._reconciler
            self._health = HealthServers(ports, reconciler.world, lambda: reconciler.behind_since)
            self.standing.warnings.append(self._health.problems)
            await self._health.run()

    async def _publish(self, api: Api | None) -> None:
        """Write to the API server, where there is one: at first that the node is served, if it is soon."""
        if api:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._reconciler.ready.wait(), _PATIENCE)
            self._publisher = Publisher(self.standing, self.answers, api)
            self.standing.notes.append(self._publisher.problems)
            await self._publisher.run()

    async def _place_first(self) -> None:
        """Once the node's pods are known, where they are is told, whatever was seen before."""
        await self._reconciler.synced.wait()
        self._devices.stir(anew=True)

    async def _watch_flows(self, watch: FlowWatch) -> None:
        """Events wait in their ring until it is known whose the addresses are, if that is soon."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._reconciler.synced.wait(), _PATIENCE)
        await watch.run()

    async def _record_edges(self) -> None:
        if self.standing.edges:
            await self.standing.edges.run()

    async def _sweep(self) -> None:
        loaded = self._plane.loaded
        now = await asyncio.to_thread(self._plane.clock.now)
        filled = await asyncio.to_thread(self._fill.read)
        census = await asyncio.to_thread(sweep, loaded.maps, loaded.abi, self._expiry, now, filled)
        if self._policies:
            ended = await asyncio.to_thread(self._sweep_policy, now)
            census = replace(
                census, fill={**census.fill, **ended.fill}, evictions={**census.evictions, **ended.evictions}
            )
            if ended.ended and self.standing.flows:
                await self.standing.flows.ended(ended.ended, ended.devices)
        self.standing.census = census
        await self.standing.take_over.forget_ended(census)

    def _sweep_policy(self, now: int) -> PolicyCensus:
        loaded = self._plane.loaded
        return sweep_policy(loaded.maps, loaded.abi, self._policy_expiry, now, rtnetlink.indexes)

    async def _remember(self) -> None:
        """Note for a successor how old the state is that the maps hold."""
        heard = self.standing.source.status().heard if self.standing.source else None
        if heard and self._reconciler.ready.is_set():
            self._instance.write_note(HEARD, f"{heard:.0f}")
        if self._publisher:
            self._publisher.stir()

    async def _look_at_kernel(self) -> None:
        await self._reconciler.ready.wait()
        log.info("ready after %.0f ms", 1000 * (time.monotonic() - self.standing.started))
        await self._remember()
        self.standing.features = await asyncio.to_thread(
            probe, self._instance.bpffs, self._plane.hooks.cgroup
        )
        libbpf.give_back_memory()  # probing and the first state took some tens of megabytes
        # What is known now mostly stays: full collections that walk through all of it would stop the loop.
        gc.collect()
        gc.freeze()

    async def _reap(self) -> None:
        """Destroy sockets of removed backends. DatapathError: the reconciler tries again."""
        if self._reaper is None:
            loaded = self._plane.loaded
            free = loaded.abi.constants["BACKEND_FREE"]
            destroyer = await asyncio.to_thread(open_destroyer, self._instance.maps, loaded.maps, free)
            self._reaper = SocketReaper(destroyer, loaded.maps, self._plane.hooks.cgroup)
        if count := await self._reaper.reap():
            log.info("%d sockets of removed backends destroyed", count)
        await self.standing.take_over.forget_gone(self.standing.census)

    # --------------------------------------------------------------- events

    def _hear(self, event: Event) -> None:
        """Learn of names, and of this node's own object, before the reconciler does."""
        if self.standing.flows:
            self.standing.flows.hear(event)
        self._acceleration.hear(event)
        match event:
            case Upsert(object=Node(name=self._settings.node_name) as node):
                self._node_object = node
                self._refresh_node()
            case Delete(key=key) if (key.kind, key.name) == ("Node", self._settings.node_name):
                self._node_object = None
                self._refresh_node()
            case Upsert(object=Pod(node_name=self._settings.node_name)):
                self._devices.stir()
            case Delete(key=key) if key.kind == "Pod":
                self._devices.stir()
            case Reject():
                where = f"{event.origin} {event.path}".rstrip()
                log.warning("%s: %s: %s", event.key or "an object", where, event.reason)

    def _refresh_node(self) -> None:
        self._facts = node_facts(self._settings, self._plane.view, self._node_object)
        self._reconciler.set_node(self._facts)
        if self.standing.flows:
            self.standing.flows.directory.set_local(self._plane.view.local)

    # -------------------------------------------- devices (agent.devices.Told)

    def pods(self) -> tuple[Pod, ...]:
        """Of this node."""
        return self._reconciler.world.pods(self._settings.node_name)

    async def placed(self, placement: Placement) -> None:
        """Pods are elsewhere."""
        self.standing.placement = placement
        if self._reconciler.world.synced:  # before that the node's pods aren't known
            self._peers.placed(placement)
        if self._policies:
            await self._policies.placed(placement)

    def attached(self) -> None:
        """Programs are on more devices that were seen, mostly on all."""
        if self._policies:
            self._policies.let_through()
        self._peers.stir()

    def node_changed(self) -> None:
        """Addresses or uplinks are others now."""
        self._refresh_node()

    def took(self, seconds: float) -> None:
        """A change of devices was dealt with so fast."""
        self.answers.account_devices(seconds)

    # --------------------------------------------------------------- accounts

    def _is_ready(self, key: PodKey, device: int) -> bool:
        """Whether all that shall happen to a pod's packets at its device does."""
        attached = device in self._plane.hooks.pods_attached()
        return attached and (self._policies is None or self._policies.is_in_force(key, device))

    def _policies_passed(self, report: PolicyReport) -> None:
        if self._policies:
            self._policies.reported(report)
        self._peers.stir()

    def _account(self, report: Report) -> None:
        self.answers.account(report)
        if self._policies and report.frontends:
            self._reconciler.judge_again()
        if self._health:
            self._health.passed(self._facts)
        if self._publisher:
            self._publisher.stir()


class _Told:
    """A source whose events are told to somebody else first."""

    def __init__(self, source: Source, tell: Callable[[Event], None]) -> None:
        self._source = source
        self._tell = tell

    def status(self) -> SourceStatus:
        """The source's own."""
        return self._source.status()

    async def events(self) -> AsyncIterator[tuple[Event, ...]]:
        """The source's batches."""
        async for batch in self._source.events():
            for event in batch:
                self._tell(event)
            yield batch


async def _every(seconds: float, action: Callable[[], Awaitable[None]]) -> None:
    """Act now and then for ever; what the kernel refuses is told and tried again the next time."""
    while True:
        try:
            await action()
        except DatapathError as error:
            log.warning("%s; tried again in %.0f s", error, seconds)
        await asyncio.sleep(seconds)
