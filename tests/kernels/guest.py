# SPDX-License-Identifier: Apache-2.0
"""Runs inside the machine, as root: what this kernel makes of the project. One JSON line for each result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from netaccel.config import Settings
from netaccel.datapath.bpfobject import OBJECTS, BpfObject
from netaccel.datapath.clock import jiffies_per_second
from netaccel.datapath.cookie import namespace_cookie
from netaccel.datapath.mounts import find_cgroup
from netaccel.datapath.plane import constants
from netaccel.errors import DatapathError, VerifierError
from tests.kernels.tell import TELL

_LINES = 12
_PATIENT = {"NETACCEL_TEST_PATIENCE": "150"}  # everything takes ten times as long


def main(stages: str, *chosen: str) -> None:
    """Run the stages; ``chosen``: arguments for pytest in stage ``tests``."""
    with Path("/dev/ttyS1").open("w", encoding="utf-8") as port:
        for name in stages.split():
            print(f"stage {name}", flush=True)
            for result in _STAGES[name](chosen):
                port.write(json.dumps({"stage": name, **result}) + "\n")
                port.flush()
        port.write(json.dumps({"stage": "end"}) + "\n")


def objects(_chosen: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Every object as the agent would load it; of one that is refused, its programs one by one."""
    cookie = namespace_cookie(find_cgroup(None))
    values = constants(Settings(nodeName="kernels"), jiffies_per_second(), cookie)
    for path in sorted(OBJECTS.glob("*.o")):
        if path.stem == "probe_kernel":  # its programs are questions: stage doctor
            continue
        started = time.monotonic()
        error = _refusal(path, values)
        yield {"object": path.stem, "ok": not error, "seconds": time.monotonic() - started, "error": error}
        if error:
            with BpfObject(path) as obj:
                names = obj.program_names()
            for name in names if len(names) > 1 else ():
                error = _refusal(path, values, name)
                yield {"object": path.stem, "program": name, "ok": not error, "error": error}


def _refusal(path: Path, values: dict[str, int], program: str | None = None) -> str:
    with BpfObject(path) as obj:
        if "settings" in obj.btf.section(".rodata"):
            obj.set_constant("settings", values)
        if program:
            obj.only(program)
        try:
            obj.load()
        except VerifierError as error:
            return "\n".join([str(error), *error.log.strip().splitlines()[-_LINES:]])
        except DatapathError as error:
            return str(error)
    return ""


def doctor(_chosen: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """What ``netaccel doctor`` says here."""
    command = [sys.executable, "-m", "netaccel", "doctor", "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("["):
        yield {"name": "doctor", "ok": False, "detail": done.stdout + done.stderr}
        return
    yield from json.loads(done.stdout)


def tests(chosen: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The tests of programs in the kernel, each as it ends: a machine that is killed has told some."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.kernels.tell"]
    command += ["--color=no", "--timeout=300", *chosen]
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as lines:
        environment = {**os.environ, **_PATIENT, TELL: str(writing)}
        child = subprocess.Popen(command, env=environment, pass_fds=(writing,))
        os.close(writing)
        yield from map(json.loads, lines)
    yield {"status": child.wait()}


_STAGES = {"objects": objects, "doctor": doctor, "tests": tests}

if __name__ == "__main__":
    main(*sys.argv[1:])
