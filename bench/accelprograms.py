# SPDX-License-Identifier: Apache-2.0
"""Programs that people run, between two pods of a node, with acceleration and without, taking turns.

A plain lab, one with both tiers, and one where the owner vouches for the programs too. Each program's server
runs in the first and in one of the others; its load goes to one and the other. What the load says of wrong
answers is an error. A run begins with new connections, so what it takes the agent to see them as worth it is
in the figures.
"""

from __future__ import annotations

import random
import statistics
from contextlib import ExitStack

from bench.accelground import CLIENT, SERVER, SETTINGS, VOUCHED, address_of, laboratory, promoted
from bench.programs import PROGRAMS, Ground, Outcome, Program
from bench.results import Result
from netaccel.lab.handle import Lab

SECONDS, ROUNDS = 4.0, 3
OFF, ON = "off", "on"


def run() -> list[Result]:
    """A row a program, and the errors of all."""
    if missing := sorted({package for program in PROGRAMS.values() for package in program.missing()}):
        raise SystemExit(f"bench accelprograms needs {', '.join(missing)}: scripts/setup bench")
    found, errors = [], []
    with ExitStack() as stack:
        plain = stack.enter_context(laboratory("plain", SETTINGS["plain"]))
        accelerated = {
            vouched: stack.enter_context(laboratory(name, settings))
            for vouched, name, settings in ((False, "socket", SETTINGS["socket"]), (True, "vouched", VOUCHED))
        }
        for program in PROGRAMS.values():
            lab = accelerated[program.vouched]
            before = promoted(lab)
            outcomes = measure(program, {OFF: plain, ON: lab})
            found.append(row(program, outcomes, promoted(lab) - before))
            errors += [
                f"{program.name}, {way}: {error}"
                for way, runs in outcomes.items()
                for outcome in runs
                for error in outcome.errors
            ]
    note = "; ".join(errors[:3])
    return [*found, Result("wrong answers and errors, all programs", len(errors), "", budget=0, note=note)]


def measure(program: Program, labs: dict[str, Lab]) -> dict[str, list[Outcome]]:
    """Every way's runs."""
    found: dict[str, list[Outcome]] = {way: [] for way in labs}
    with ExitStack() as stack:
        grounds = {
            way: stack.enter_context(program.serve(Ground(lab, SERVER, CLIENT, address_of(lab))))
            for way, lab in labs.items()
        }
        for _ in range(ROUNDS):
            for way in random.sample(list(labs), len(labs)):
                found[way].append(program.load(grounds[way], SECONDS))
    return found


def row(program: Program, outcomes: dict[str, list[Outcome]], count: int) -> Result:
    """Medians. ``count``: connections accelerated."""
    on, off = (statistics.median(outcome.rate for outcome in outcomes[way]) for way in (ON, OFF))
    note = f"{count} accelerated{', vouched for' if program.vouched else ''}"
    return Result(f"{program.name}, {program.what}", on, "answers/s", off, "plain", note=note)
