# SPDX-License-Identifier: Apache-2.0
"""The command line: what it offers, how it refuses, what it answers without an agent."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from netaccel.cli import netaccel

EXAMPLE = Path(__file__).parents[2] / "policies" / "examples" / "default-deny.yaml"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(netaccel, arguments, prog_name="netaccel")


def every_command() -> list[tuple[str, ...]]:
    def walk(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        context = click.Context(group)
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from walk(command, (*path, name))
            else:
                yield (*path, name)

    return [path for path in walk(netaccel, ()) if path[0] != "lab"]


@pytest.mark.parametrize("path", every_command(), ids=" ".join)
def test_every_command_teaches_by_example(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert f"netaccel {' '.join(path)}" in result.output


def test_help_imports_no_command() -> None:
    ask = "import sys; from netaccel.cli import netaccel; netaccel(['--help'], standalone_mode=False);"
    ask += (
        "print(*(m for m in sys.modules if m.startswith(('netaccel.commands.', 'rich', 'pydantic', 'yaml'))))"
    )
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_a_wrong_option_is_a_usage_error() -> None:
    assert run("service", "list", "--colour").exit_code == 2


def test_the_version_in_words_and_json() -> None:
    assert run("version").output.startswith("netaccel ")
    assert set(json.loads(run("version", "-o", "json").output)) == {"netaccel", "python", "kernel"}


def test_a_wrong_setting_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run("agent", "--snat-ports", "30000-30010")
    assert result.exit_code == 1
    assert result.stderr == (
        "netaccel: snatPorts 30000-30010 overlap nodePortRange 30000-32767: give another\n"
    )


@pytest.mark.parametrize(
    "path", [("agent",), ("service", "list"), ("map", "dump"), ("detach",)], ids=" ".join
)
def test_without_root_one_line_says_so(monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    result = run(*path)
    assert result.exit_code == 1
    assert result.stderr == "netaccel: this needs root: run it with sudo\n"


@pytest.mark.parametrize(
    "path",
    [
        ("flows", "--follow"),
        ("drops", "--follow"),
        ("policy", "list"),
        ("policy", "preview", "-f", str(EXAMPLE)),
        ("status",),
    ],
    ids=" ".join,
)
def test_ctrl_c_ends_quietly(monkeypatch: pytest.MonkeyPatch, path: tuple[str, ...]) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("socket.create_connection", interrupted)
    result = run(*path)
    assert (result.exit_code, result.output) == (130, "")


@pytest.mark.root
@pytest.mark.parametrize(
    "path", [("service", "list"), ("service", "show", "web"), ("map", "dump")], ids=" ".join
)
def test_without_a_datapath_one_line_says_so(tmp_path: Path, path: tuple[str, ...]) -> None:
    result = run(*path, "--bpffs", str(tmp_path))
    assert result.exit_code == 1
    assert f"no datapath is pinned at {tmp_path}/netaccel" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.root
def test_detach_of_nothing_is_no_failure(tmp_path: Path) -> None:
    result = run("detach", "--bpffs", str(tmp_path), "-o", "json")
    assert result.exit_code == 0
    assert json.loads(result.output) == {"removed": [], "left": []}


# --------------------------------------------------------------------- status

WELL: dict[str, Any] = {
    "node": "node-1",
    "version": "0.1.0",
    "kernel": "6.6.0",
    "pid": 7,
    "uptime": 3.5,
    "ready": True,
    "reasons": [],
    "warnings": [],
    "refused": [],
    "waiting": [],
    "counts": {"services": 2, "frontends": 4, "backends": 3},
    "drift_repaired": 0,
    "hooks": [{"hook": "xdp", "where": "eth0", "program": "xdp_uplink", "mode": "native", "note": ""}],
}
REFUSED = {
    "object": "Service shop/web",
    "state": "Rejected",
    "where": "web.yaml spec.ports",
    "reason": "none",
}


@pytest.fixture
def agent() -> Iterator[tuple[str, dict[str, Any]]]:
    """An agent that answers /status with what the test puts into the dictionary."""
    answer = dict(WELL)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}", answer
        server.shutdown()
        thread.join()


def test_status_of_a_node_that_is_well(agent: tuple[str, dict[str, Any]]) -> None:
    result = run("status", "--http", agent[0])
    assert result.exit_code == 0
    assert result.output.startswith("node node-1: ready\n")
    assert "services 2" in result.output
    assert any(line.split() == ["xdp", "eth0", "xdp_uplink", "native"] for line in result.output.splitlines())
    assert json.loads(run("status", "--http", agent[0], "-o", "json").output) == WELL


@pytest.mark.parametrize(
    "change",
    [
        {"ready": False, "reasons": ["no program is attached"]},
        {"warnings": ["eth0: XDP can't attach"]},
        {"refused": [REFUSED]},
    ],
    ids=str,
)
def test_status_exits_with_3_where_not_all_is_as_asked(
    agent: tuple[str, dict[str, Any]], change: dict[str, Any]
) -> None:
    agent[1].update(change)
    result = run("status", "--http", agent[0])
    assert result.exit_code == 3
    told = next(iter(change.values())) if "ready" not in change else change["reasons"]
    for item in told:
        for text in item.values() if isinstance(item, dict) else [item]:
            assert text in result.output


def test_status_without_agent_and_datapath_fails(tmp_path: Path) -> None:
    result = run("status", "--http", "127.0.0.1:1", "--bpffs", str(tmp_path))
    assert result.exit_code == 1
    assert "no agent listens at 127.0.0.1:1" in result.stderr


def test_status_of_something_else_says_so(agent: tuple[str, dict[str, Any]]) -> None:
    agent[1].clear()
    result = run("status", "--http", agent[0])
    assert result.exit_code == 1
    assert "no answer of an agent" in result.stderr
