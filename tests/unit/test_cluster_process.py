# SPDX-License-Identifier: Apache-2.0
"""Programs beside this process: their logs, how they end, and why they didn't start."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from netaccel.cluster.process import Child, Program, environment
from netaccel.errors import LabError

Start = Callable[[str], Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[Child] = []

    def shell(script: str) -> Child:
        started.append(Child(Program("it", ["sh", "-c", script], tmp_path / "logs/it.log")))
        return started[-1]

    yield shell
    for child in started:
        child.kill()


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}/exe").exists()


def test_it_is_ready_when_it_says_so(start: Start) -> None:
    child = start("echo ready; exec sleep 60")
    child.wait_until(lambda: "ready" in child.said())
    assert child.alive


def test_one_that_ends_before_it_is_ready_says_why(start: Start) -> None:
    child = start("echo first; echo no such port >&2; exit 3")
    with pytest.raises(LabError, match=r"^it ended with status 3: no such port$"):
        child.wait_until(lambda: False)


def test_one_that_is_never_ready_is_not_waited_for_for_ever(start: Start) -> None:
    child = start("exec sleep 60")
    with pytest.raises(LabError, match=r"^it: not ready after 0\.1 s, see .*/it\.log$"):
        child.wait_until(lambda: False, timeout=0.1)


def test_what_an_earlier_one_said_is_not_its_own(start: Start) -> None:
    first = start("echo earlier; exec sleep 60")
    first.wait_until(lambda: "earlier" in first.said())
    first.stop()
    second = start("echo later; exec sleep 60")
    second.wait_until(lambda: "later" in second.said())
    assert "earlier" not in second.said()


def test_it_is_asked_to_end(start: Start) -> None:
    child = start("trap 'echo asked; exit' TERM; echo up; while :; do sleep 0.05; done")
    child.wait_until(lambda: "up" in child.said())
    child.stop()
    assert "asked" in child.said()
    assert gone(child.pid)


def test_children_that_it_leaves_behind_are_killed(start: Start) -> None:
    child = start("(trap '' TERM; echo deaf; while :; do sleep 0.05; done) & trap exit TERM; wait")
    child.wait_until(lambda: "deaf" in child.said())
    child.stop()
    _eventually(lambda: not _group(child.pid))


def test_one_that_does_not_listen_is_killed(start: Start) -> None:
    child = start("trap '' TERM; echo deaf; while :; do sleep 0.05; done")
    child.wait_until(lambda: "deaf" in child.said())
    child.stop(grace=0.1)
    assert not child.alive


def test_one_that_is_stopped_hears_the_request_too(start: Start) -> None:
    child = start("trap 'echo asked; exit' TERM; echo up; while :; do sleep 0.05; done")
    child.wait_until(lambda: "up" in child.said())
    child.signal(signal.SIGSTOP)
    child.stop()
    assert "asked" in child.said()


def test_stopping_twice_is_stopping_once(start: Start) -> None:
    child = start("exec sleep 60")
    child.stop()
    child.stop()
    assert not child.alive


_PARENT = """
import sys
from pathlib import Path
from netaccel.cluster.process import Child, Program
child = Child(Program("it", ["sh", "-c", "echo up; exec sleep 60"], Path(sys.argv[1])))
child.wait_until(lambda: "up" in child.said())
print(child.pid, flush=True)
sys.stdin.read()
"""


def test_it_ends_with_its_parent_however_that_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PARENT, str(tmp_path / "it.log")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.kill()
    _eventually(lambda: gone(pid))


def test_what_is_not_there_cannot_be_started(tmp_path: Path) -> None:
    absent = Program("it", [str(tmp_path / "absent")], tmp_path / "it.log", bound=False)
    with pytest.raises(LabError, match=r"^it: can't be started: .*absent"):
        Child(absent)


def test_no_proxy_stands_between_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert "HTTPS_PROXY" not in environment({})
    assert environment({"A": "b"})["A"] == "b"


def _group(leader: int) -> set[int]:
    """Processes of a group that have not ended (proc_pid_stat(5), fields 3 and 5)."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state not in "ZX":
                found.add(int(stat.parent.name))
    return found


def _eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
