# SPDX-License-Identifier: Apache-2.0
"""What is told of the engine: status, connections, and the path of one connection."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from netaccel.accelerate.accounts import passes
from netaccel.accelerate.engine import Engine
from netaccel.accelerate.evidence import SLOW
from netaccel.accelerate.life import Phase
from netaccel.accelerate.obstacles import of_owner
from netaccel.accelerate.pairing import ELSEWHERE
from netaccel.accelerate.paths import SOCKET, TC
from netaccel.accelerate.slots import Slot
from netaccel.accelerate.view import Carried, Connection, Totals
from netaccel.model.address import text
from netaccel.model.endpoint import PodKey
from netaccel.records import AccelEnd, AccelSeen


class Row(NamedTuple):
    """One end of a pair, as text is made of it."""

    slot: Slot
    side: int
    own: AccelEnd
    other: AccelEnd


def totals(engine: Engine) -> Totals:
    """Counts, and pairs now; from memory, for any thread."""
    used = list(engine.slots.used.values())
    live = sum(slot.phase is Phase.LIVE for slot in used)
    account = engine.account
    return Totals(
        live=live,
        leaving=len(used) - live,
        capacity=engine.programs.capacity,
        promotions=account.promotions,
        evictions=account.out.total(),
        deferred=account.deferred,
        queued_bytes=engine.queued,
        refused=dict(account.refused),
        out=dict(account.out),
    )


def rows(engine: Engine) -> dict[int, Row]:
    """Ends of pairs by their cookie. DatapathError."""
    found: dict[int, Row] = {}
    for slot in list(engine.slots.used.values()):
        ends = engine.accounts.ends(slot)
        for side in (0, 1):
            found[slot.parties[side].cookie] = Row(slot, side, ends[side], ends[1 - side])
    return found


def carried(row: Row) -> Carried:
    """What one end sent and got since its pair joined."""
    path = SOCKET if row.slot.phase is Phase.LIVE else TC
    return Carried(
        path,
        row.own.sent_messages,
        row.own.sent_bytes,
        row.other.sent_messages,
        row.other.sent_bytes,
        row.own.passed_bytes,
        row.other.passed_bytes,
    )


def connections(engine: Engine, pod: str | None, seen: Mapping[str, Sequence[AccelSeen]]) -> list[Connection]:
    """Of pods, by ``namespace/name`` the sockets that were seen. DatapathError."""
    known = rows(engine)
    homes = {cookie: name for name, found in seen.items() for cookie in (one.cookie for one in found)}
    tuples = {(one.src, one.sport, one.dst, one.dport): homes[one.cookie] for f in seen.values() for one in f}
    made: list[Connection] = []
    for name, found in sorted(seen.items()):
        if pod is None or pod == name:
            made += [
                _connection(engine, name, one, known.get(one.cookie), tuples)
                for one in sorted(found, key=lambda one: (one.src, one.sport, one.dst, one.dport))
            ]
    return made


def _connection(
    engine: Engine,
    pod: str,
    seen: AccelSeen,
    row: Row | None,
    tuples: Mapping[tuple[bytes, int, bytes, int], str],
) -> Connection:
    if row is not None:
        done = carried(row)
        other = row.slot.parties[1 - row.side].pod
        service, reason, passed = row.slot.service, row.slot.reason, passes(row.own)
        peer = f"{other.namespace}/{other.name}" if other else ""
        sent = max(0, seen.sent_bytes)
        done = Carried(
            done.path,
            done.sent_messages,
            done.sent_bytes,
            done.received_messages,
            done.received_bytes,
            sent,
            seen.received_bytes,
        )
    else:
        before = engine.accounts.paths.find(seen.src, seen.sport, seen.dst, seen.dport) or Carried(TC)
        done = replace(
            before, path=TC, tcp_sent_bytes=seen.sent_bytes, tcp_received_bytes=seen.received_bytes
        )
        peer = tuples.get((seen.dst, seen.dport, seen.src, seen.sport), "")
        service, passed = "", {}
        reason = engine.why(seen.cookie) or (_why(engine, pod, peer, seen) if peer else ELSEWHERE)
    return Connection(
        pod=pod,
        local=text(seen.src),
        local_port=seen.sport,
        remote=text(seen.dst),
        remote_port=seen.dport,
        carried=done,
        peer=peer,
        service=service,
        reason=reason,
        passes=passed,
        queued=seen.queued,
    )


def _why(engine: Engine, pod: str, peer: str, seen: AccelSeen) -> str:
    """Why a connection that is not busy stays with TCP: what would keep it there were it busy, first."""
    own, other = PodKey(*pod.split("/", 1)), PodKey(*peer.split("/", 1))
    return (
        of_owner(engine.facts, own, seen.src, seen.sport)
        or of_owner(engine.facts, other, seen.dst, seen.dport)
        or engine.obstacle(seen)
        or SLOW
    )
