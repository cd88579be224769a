# SPDX-License-Identifier: Apache-2.0
"""An agent killed with SIGKILL and started again, ROUNDS times, under load that must not notice.

A lab of two nodes. An outside client asks a NodePort of node-1 (whose backend is on node-2), a pod of node-1
asks the ClusterIP; each with new connections all the time. Each round kills node-1's agent at a random moment
after its start, sometimes before it is ready. Exit status 1 if a request failed.

``python -m bench.soak [ROUNDS]``
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import yaml

from netaccel.errors import LabError
from netaccel.lab import lifecycle
from netaccel.lab.handle import Lab, wait_for
from netaccel.lab.state import State

ROUNDS = 1_000
PATIENCE = 30.0
CLIENT = """
import json, signal, socket, sys, time
host, port = sys.argv[1], int(sys.argv[2])
going, done, failed = True, 0, []
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
while going:
    begin = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout=5) as s:
            s.sendall(b"GET /json HTTP/1.1\\r\\nHost: soak\\r\\nConnection: close\\r\\n\\r\\n")
            answer = b""
            while piece := s.recv(65536):
                answer += piece
        if b" 200 " not in answer.split(b"\\r\\n")[0]:
            failed.append(repr(answer[:60]))
        done += 1
    except OSError as error:
        failed.append(f"{type(error).__name__} {error} after {time.monotonic() - begin:.2f} s")
    time.sleep(0.002)
print(json.dumps({"done": done, "failed": failed}))
"""


def main(rounds: int) -> int:
    with laboratory() as lab, ExitStack() as stack:
        targets = {
            "client": (lab.plan.nodes[0].address4, "30080"),
            "pod:default/asker": ("10.96.0.10", "80"),
        }
        loads = {who: lab.popen(who, sys.executable, "-c", CLIENT, *where) for who, where in targets.items()}
        for load in loads.values():
            stack.callback(load.kill)
        kills = kill_again_and_again(lab, rounds)
        bad = 0
        for who, load in loads.items():
            load.send_signal(signal.SIGTERM)
            out, err = load.communicate(timeout=PATIENCE)
            if load.returncode:
                print(f"{who}: {err}", file=sys.stderr)
                return 1
            found = json.loads(out)
            bad += len(found["failed"])
            where = ":".join(targets[who])
            print(f"{who} → {where}: {found['done']:,} requests, failed: {len(found['failed'])}")
            for failure in found["failed"][:10]:
                print(f"  {failure}")
    print(f"{kills:,} kills of the agent; requests that failed: {bad}")
    return 1 if bad else 0


@contextmanager
def laboratory() -> Iterator[Lab]:
    """Two nodes, a server on node-2, a pod on node-1 that asks."""
    name = f"soak{os.getpid()}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "soak.yaml").write_text(yaml.safe_dump_all(objects()))
        stack.callback(lifecycle.down, name, lambda _: None)
        lifecycle.up(State(name, 2, str(folder)), lambda _: None)
        yield Lab(name)


def objects() -> Iterator[dict[str, object]]:
    """The Service, its pod, and the pod that asks."""
    port = {"name": "http", "port": 80, "targetPort": 8080, "nodePort": 30080}
    spec = {"type": "NodePort", "clusterIP": "10.96.0.10", "selector": {"app": "web"}, "ports": [port]}
    metadata = {"name": "web", "namespace": "default"}
    yield {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}
    serve = ["python", "-m", "netaccel.lab.server", "--http", "8080"]
    for name, node, command in (("web", "node-2", serve), ("asker", "node-1", ["sleep", "infinity"])):
        yield {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": [{"name": name, "image": name, "command": command}]},
        }


def kill_again_and_again(lab: Lab, rounds: int) -> int:
    """SIGKILL to node-1's agent; its successor comes by the lab's controller."""
    last, begin = 0, time.monotonic()
    for number in range(rounds):
        pid = wait_for(partial(fresh, lab, last), "the agent's successor", PATIENCE)
        time.sleep(random.uniform(0, 1.5))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        last = pid
        if number % 50 == 49:
            print(f"{number + 1} kills, {time.monotonic() - begin:.0f} s", flush=True)
    wait_for(lambda: ready(lab), "the last successor to be ready", PATIENCE)
    return rounds


def fresh(lab: Lab, last: int) -> int:
    """The pid of an agent other than ``last``; 0 where there is none."""
    pid = lab.agent_pid("node-1")
    return pid if pid != last else 0


def ready(lab: Lab) -> bool:
    """Whether node-1's agent says that it is ready."""
    with suppress(LabError, ValueError):
        return bool(lab.api("node-1", "/status")["ready"])
    return False


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
