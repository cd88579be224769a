# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, as pairs of server and load, in two pods of a lab.

``PROGRAMS`` has each by name. A program's ``serve`` starts the server and waits until it answers; its
``load`` runs the client to its end and returns what it saw::

    with PROGRAMS["redis"].serve(Ground(lab, "pod:server", "pod:client", address)) as ground:
        outcome = PROGRAMS["redis"].load(ground, 5.0)

Each server listens on its pod's own address, keeps its files in a folder of its own and is ended by its
process id. Each load checks the answers as far as its client can, so that a wrong one is an error.
"""

from __future__ import annotations

from bench.programs import bulk, postgres, redis, rpc, web
from bench.programs.base import Ground, Outcome, Program

PROGRAMS: dict[str, Program] = {
    program.name: program
    for program in (redis.REDIS, web.WEB, web.TLS, postgres.POSTGRES, rpc.RPC, bulk.BULK)
}

__all__ = ["PROGRAMS", "Ground", "Outcome", "Program"]
