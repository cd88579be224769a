# SPDX-License-Identifier: Apache-2.0
"""The tour's step about acceleration: one connection of two pods of a node, before and after."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from netaccel.commands.output import DEGRADED
from netaccel.errors import LabError
from netaccel.lab.documents import replace
from netaccel.lab.handle import Lab, wait_for
from netaccel.lab.tour import Shown, hold

_NODE = "node-1"
_ASKS, _ANSWERS = "asks-0", "answers-0"
_PORT = 9000
_WINDOWS = 6  # looked at, before and after
_FILE = "load.yaml"
_SERVICE = "answers"
_SERVICE_TEXT = f"""\
apiVersion: v1
kind: Service
metadata: {{name: {_SERVICE}, namespace: default}}
spec:
  selector: {{app: {_ANSWERS}}}
  ports: [{{name: load, port: {_PORT}}}]
"""
_POD_TEXT = """\
---
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: default
  labels: {{app: {name}}}
  # Python could splice(2) from sockets, so it is left alone unless its owner says that it doesn't.
  annotations: {{netaccel.io/accelerate: {wish}}}
spec:
  nodeName: {node}
  containers:
    - name: load
      command: [python, -m, netaccel.lab.load, --listen, "{port}"]
      readinessProbe: {{tcpSocket: {{port: {port}}}, periodSeconds: 1}}
"""


class AccelTour:
    """``folder``: of the lab's manifests."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder

    def steps(self, run: str) -> Iterator[tuple[str, str, Callable[[], Shown]]]:
        """Title, what to type for the same (``run``: in a target of the lab), and the step."""
        yield (
            "Requests and responses between two pods of a node, from socket to socket",
            f"{run} {_NODE} -- netaccel accel show pod:default/{_ASKS}",
            self.accelerate,
        )

    def accelerate(self) -> Shown:
        """The same connection, first by TCP, then not."""
        self._write("disabled")
        address = wait_for(self._served, "two pods and a Service for the load", 20)
        with load(self.lab, f"pod:default/{_ASKS}", address) as asked:
            before = asked.rate()
            held = self._connection(asked.port)
            hold(held["carried"]["path"] != "socket", "it was accelerated though its owner disabled it")
            self._write("enabled")
            wait_for(
                lambda: self._connection(asked.port)["carried"]["path"] == "socket", "it accelerated", 20
            )
            after = asked.rate()
            found = self._connection(asked.port)
            shown = self._told("show", f"pod:default/{_ASKS}")
            receipts = self._receipts()
            totals = asked.stop()
        carried = found["carried"]
        hold(carried.get("sent_bytes", 0) > 0, "no byte went from socket to socket")
        hold(totals["sent"] == totals["received"], f"sent {totals['sent']} bytes, got {totals['received']}")
        (self.folder / _FILE).unlink()
        return Shown(
            f"{before:.0f} exchanges a second by TCP, {after:.0f} from socket to socket:"
            f" × {after / before:.2f}; {totals['exchanges']} of them, each answer right",
            (*shown, "", *receipts),
        )

    def _write(self, wish: str) -> None:
        text = "".join(
            _POD_TEXT.format(name=name, wish=wish, node=_NODE, port=_PORT) for name in (_ASKS, _ANSWERS)
        )
        replace(self.folder / _FILE, (_SERVICE_TEXT + text).encode())

    def _served(self) -> str:
        """The Service's address, once it has its backend on the node and the other pod is ready."""
        seen = self.lab.status()
        ports = self.lab.api(_NODE, f"/api/v1/services/default/{_SERVICE}").get("ports", [])
        ready = {pod["name"] for pod in seen["pods"] if pod["ready"]} >= {_ASKS, _ANSWERS}
        if not (ready and ports and all(port["backends"] for port in ports)):
            return ""
        found = next(one for one in seen["services"] if one["name"] == _SERVICE)
        return str(found["clusterIPs"][0])

    def _connection(self, port: int) -> dict[str, Any]:
        """The load's, as the agent shows it."""
        found = self.lab.api(_NODE, f"/api/v1/accel/connections?pod=default/{_ASKS}")
        hold(isinstance(found, list), str(found))
        mine = [one for one in found if one["local_port"] == port]
        hold(bool(mine), "the agent does not see the connection")
        return dict(mine[0])

    def _told(self, *arguments: str) -> tuple[str, ...]:
        done = self.lab.run(_NODE, "netaccel", "accel", *arguments)
        hold(done.returncode in (0, DEGRADED), done.stderr.strip() or done.stdout)
        return tuple(done.stdout.splitlines())

    def _receipts(self) -> tuple[str, ...]:
        """The last table of ``accel status``."""
        lines = self._told("status")
        return lines[-lines[::-1].index("") :]


class Asked:
    """A load that runs (netaccel/lab/load.py)."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._lines: list[dict[str, int]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.port: int = self._wait(lambda: next((one["port"] for one in self._lines), 0))

    def rate(self) -> float:
        """Exchanges a second from now on, as the median of some windows."""
        since = len(self._lines)
        self._wait(lambda: len(self._lines) > since + _WINDOWS)
        return median(line["rate"] for line in self._lines[since + 1 : since + 1 + _WINDOWS])

    def stop(self) -> dict[str, int]:
        """End it; what it counted. The connection stays until the end of the block."""
        assert self._process.stdin is not None
        self._process.stdin.write("stop\n")
        self._process.stdin.flush()
        self._wait(lambda: "sent" in self._lines[-1])
        return self._lines[-1]

    def close(self) -> None:
        """Close the connection."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe:
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(json.loads(line))

    def _wait(self, question: Callable[[], Any]) -> Any:
        def ended() -> bool:
            return self._process.poll() is not None

        found = wait_for(lambda: question() or ended(), "the load", 60)
        if ended() and self._process.stderr:
            raise LabError(f"the load ended: {self._process.stderr.read().strip()}")
        return found


@contextmanager
def load(lab: Lab, target: str, address: str, *options: str, port: int = _PORT) -> Iterator[Asked]:
    """Have a target ask ``address`` (of a pod that answers: ``netaccel.lab.load --listen``) meanwhile."""
    at = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    command = ("python3", "-m", "netaccel.lab.load", "--connect", at, "--seconds", "120", *options)
    process = lab.popen(target, *command, stdin=subprocess.PIPE)
    try:
        asked = Asked(process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    try:
        yield asked
    finally:
        asked.close()
