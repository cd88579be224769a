# SPDX-License-Identifier: Apache-2.0
"""The self-test of the kernel: what it says of this one, and that it sees faults, each put in on purpose."""

from __future__ import annotations

import errno
import gc
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Set
from contextlib import suppress
from pathlib import Path

import pytest
from programs import ROOT

from netaccel.datapath import libbpf, netlink, rtnetlink
from netaccel.datapath.accel import selftest
from netaccel.datapath.accel.programs import Call
from netaccel.datapath.accel.selftest import ground
from netaccel.datapath.accel.selftest.wire import SurpriseError
from netaccel.datapath.accel.sockets import AccelSockets
from netaccel.datapath.bpfobject import BpfObject
from netaccel.errors import DatapathError
from netaccel.model.acceleration import Check

pytestmark = pytest.mark.root

SOURCE = (ROOT / "bpf/accel/sockets.bpf.c").read_text()

Build = Callable[..., Path]


def _failed(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.detail for check in checks if not check.ok}


def _ours(checks: list[Check]) -> dict[str, str]:
    """What failed of what no kernel may get wrong."""
    return {name: detail for name, detail in _failed(checks).items() if name not in selftest.CALLS}


def _run(
    expected: Set[str] = frozenset(), make: Callable[[], BpfObject | None] = lambda: None
) -> list[Check]:
    """Run it until what is expected fails and nothing else: a busy machine fails some, and is tried again."""
    for _ in range(3):
        checks = selftest.run(make())
        if set(_ours(checks)) == expected:
            break
    return checks


def _left() -> tuple[object, ...]:
    """What may stay behind: descriptors (they hold programs, maps and namespaces), devices, threads."""
    return (
        sorted(os.listdir("/proc/self/fd")),  # noqa: PTH208
        [device.name for device in rtnetlink.devices()],
        _namespaces(),
    )


def _namespaces() -> set[str]:
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # the thread ended since it was listed
            found.add(str((task / "ns/net").readlink()))
    return found


@pytest.fixture
def tidy(inside: str) -> Iterator[None]:
    """Nothing more is there after the test than before."""
    gc.collect()  # what other tests left to it may hold descriptors
    before = _left()
    yield
    for _ in range(1000):  # a thread that was joined is listed for a moment longer
        if _left() == before:
            break
        time.sleep(0.02)
    assert _left() == before


@pytest.mark.usefixtures("tidy")
def test_its_programs_and_maps_end_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: set[tuple[str, int]] = set()
    original = selftest._private

    def private(obj: BpfObject | None) -> AccelSockets:
        opened = obj or BpfObject.named("accel_sockets")
        found = original(opened)
        programs = [opened.program(name).info for name in opened.program_names()]
        made.update(("prog", program.id) for program in programs)
        made.update(("map", number) for program in programs for number in program.maps)
        return found

    monkeypatch.setattr(selftest, "_private", private)
    assert selftest.verdict(_run()).on
    assert len(made) > 8
    for _ in range(1200):  # the kernel frees them when nobody can be reading any more
        made = {one for one in made if _is_there(*one)}
        if not made:
            break
        time.sleep(0.05)
    assert not made


def _is_there(kind: str, number: int) -> bool:
    try:
        os.close(libbpf.fd_by_id(kind, number))
    except FileNotFoundError:
        return False
    return True


@pytest.mark.usefixtures("tidy")
def test_this_kernel_passes() -> None:
    checks = _run()
    assert tuple(check.name for check in checks) == selftest.NAMES
    # Kernels are known that get these wrong; who may do such calls stays with TCP there.
    assert set(_failed(checks)) <= set(selftest.CALLS)
    assert all(check.detail for check in checks if not check.ok)
    found = selftest.verdict(checks)
    assert (found.on, found.reason) == (True, "")
    assert found.broken == {selftest.CALLS[name] for name in _failed(checks)}
    assert found.may_splice == (Call.SPLICE not in found.broken)


@pytest.mark.usefixtures("tidy")
def test_it_stays_away_from_the_namespace_of_its_caller() -> None:
    here = netlink.netns_cookie()
    with socket.create_server(("127.0.0.1", 0)):
        selftest.run()
    assert netlink.netns_cookie() == here


def test_both_families_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    original = selftest._try
    monkeypatch.setattr(
        selftest, "_try", lambda trial, among, n: tried.append(among.family) or original(trial, among, n)
    )
    selftest.run()
    assert set(tried) == {"IPv4", "IPv6"}


FAULTS = {
    "no gate on unread bytes": (
        ("if (tp->write_seq != peer->copied_seq)", "if (0 && tp->write_seq != peer->copied_seq)"),
        {"order", "urgent"},
        "second.first.",
    ),
    "urgent data is redirected": (
        ("!(regs->r10 & MSG_OOB)", "1 || (regs->r10 & MSG_OOB)"),
        {"urgent"},
        "urgent",
    ),
    "urgent data of sendmsg is redirected": (
        ("!(regs->dx & MSG_OOB)", "1 || (regs->dx & MSG_OOB)"),
        {"urgent"},
        "urgent",
    ),
    "messages after shutdown are redirected": (
        ("if (!may_send(", "if (0 && !may_send("),
        {"half-close"},
        "EPIPE",
    ),
    "no bounds": (("if (!has_room(", "if (0 && !has_room("), {"slow-reader"}, "wait at a slow reader"),
    "no bound of messages": (
        ("return own->queued < ACCEL_QUEUE_MESSAGES ||", "return 1 || own->queued < ACCEL_QUEUE_MESSAGES ||"),
        {"slow-reader"},
        "messages of 1 bytes wait",
    ),
    "no bound of bytes": (
        ("waiting + size > ACCEL_QUEUE_BYTES", "waiting + size > 16 * ACCEL_QUEUE_BYTES"),
        {"slow-reader"},
        "messages of 4096 bytes wait",
    ),
    "a stopped pair goes on": (("|| pair->state != ACCEL_LIVE", ""), {"eviction"}, "stopped"),
    "messages come back to their sender": (
        ("key = other->cookie;", "key = own->cookie;"),
        {"order", "fionread", "peek", "poll", "errno", "half-close", "close", "eviction", "slow-reader"},
        "",
    ),
    "messages are dropped": (
        ("if (!why) {", "if (!why) {\n\t\treturn SK_DROP;"),
        {"order", "fionread", "peek", "poll", "half-close", "close", "eviction", "slow-reader"},
        "",
    ),
    "unread bytes are not seen": (("flags |= ACCEL_UNREAD;", "flags |= 0;"), {"eviction"}, "bytes wait"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.usefixtures("tidy")
def test_a_fault_is_seen(build: Build, fault: str) -> None:
    (old, new), expected, word = FAULTS[fault]
    assert old in SOURCE
    checks = _run(expected, lambda: BpfObject(build(SOURCE.replace(old, new))))
    failed = _ours(checks)
    assert expected <= set(failed)
    assert word in failed[min(expected)]
    if len(expected) <= 2:  # and nothing else is blamed
        assert set(failed) == expected
    found = selftest.verdict(checks)
    assert not found.on
    assert found.reason.startswith("this kernel fails the self-test: ")


@pytest.mark.usefixtures("tidy")
def test_programs_that_redirect_nothing_prove_nothing(build: Build) -> None:
    source = SOURCE.replace("if (!why) {", "if (0 && !why) {")
    failed = _failed(selftest.run(BpfObject(build(source))))
    assert set(failed) == set(selftest.NAMES) - {"programs"}
    assert "nothing went from socket to socket" in failed["peek"]


@pytest.mark.usefixtures("tidy")
def test_a_program_that_the_verifier_refuses_is_one_check(build: Build) -> None:
    source = SOURCE.replace(
        "__u32 size = msg->size, index;", "__u32 size = msg->size + *(__u32 *)msg->data, index;"
    )
    checks = selftest.run(BpfObject(build(source)))
    assert [check.name for check in checks] == ["programs"]
    assert "program accel_msg refused by the verifier: " in checks[0].detail
    assert "accel_msg" in selftest.verdict(checks).reason


@pytest.mark.usefixtures("tidy")
def test_a_kernel_function_that_is_not_there_is_one_check(build: Build) -> None:
    text = (ROOT / "bpf/include/kernel_tcp.h").read_text().replace("bpf_rdonly_cast", "bpf_no_such_cast")
    source = SOURCE.replace('#include "kernel_tcp.h"', text)
    checks = selftest.run(BpfObject(build(source)))
    assert [(check.name, check.ok) for check in checks] == [("programs", False)]
    assert "bpf_no_such_cast" in checks[0].detail


@pytest.mark.usefixtures("tidy")
def test_sockets_that_can_not_be_enrolled_are_one_check(build: Build) -> None:
    source = SOURCE.replace(
        "error = bpf_map_update_elem(&accel_map, &cookie, (void *)tp, BPF_NOEXIST);", "error = -16;"
    )
    checks = selftest.run(BpfObject(build(source)))
    assert [check.name for check in checks] == ["programs"]
    assert "can't be enrolled: EBUSY" in checks[0].detail


@pytest.mark.usefixtures("tidy")
def test_without_the_right_to_make_namespaces_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_kind: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(ground.libbpf, "unshare", refuse)
    checks = selftest.run()
    assert [check.name for check in checks] == ["programs"]
    assert "Operation not permitted" in checks[0].detail


@pytest.mark.usefixtures("tidy")
def test_without_root_it_says_so() -> None:
    text = f"""
import os, sys
sys.path[:] = {sys.path!r}
from netaccel.datapath.accel import selftest
os.setgroups([]), os.setgid(65534), os.setuid(65534)
for check in selftest.run():
    print(check.name, check.ok, check.detail)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("programs False ")
    assert "root" in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.usefixtures("tidy")
def test_a_machine_without_ipv6_is_tried_by_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    original = netlink.add_address

    def add(name: str, address: str) -> None:
        if ":" in address:
            raise DatapathError("address: Permission denied", errno.EACCES)
        original(name, address)

    monkeypatch.setattr(netlink, "add_address", add)
    assert selftest.verdict(_run()).on


@pytest.mark.usefixtures("tidy")
def test_time_that_is_over_leaves_trials_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "BUDGET", 0)
    checks = selftest.run()
    assert [check.name for check in checks] == list(selftest.NAMES)
    assert {check.detail for check in checks[1:]} == {"not tried: 0 s were over"}
    assert not selftest.verdict(checks).on


def test_a_kernel_that_does_not_come_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, done = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        go_on.wait(60)
        done.set()

    trials = [
        selftest.Trial(trial.name, trial.connections, alone=hang) if trial.name == "poll" else trial
        for trial in selftest.TRIALS
    ]
    monkeypatch.setattr(selftest, "TRIALS", trials)
    monkeypatch.setattr(selftest, "_LIMIT", 3.0)
    try:
        checks = selftest.run()
    finally:
        go_on.set()
    assert checks[-1] == Check("time", ok=False, detail="the kernel does not come back from: poll")
    assert "time: " in selftest.verdict(checks).reason
    assert done.wait(60)
    for thread in threading.enumerate():
        if thread.name == "accel-selftest":
            thread.join(60)


def test_a_trial_that_raises_is_one_check(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_surprise(*_: object) -> None:
        raise SurpriseError("a surprise")

    def raise_error(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    instead = {"peek": raise_surprise, "poll": raise_error}
    trials = [
        selftest.Trial(trial.name, trial.connections, alone=instead[trial.name])
        if trial.name in instead
        else trial
        for trial in selftest.TRIALS
    ]
    monkeypatch.setattr(selftest, "TRIALS", trials)
    failed = _failed(_run(instead.keys()))
    assert failed["peek"] == "IPv4: a surprise"
    assert failed["poll"] == "IPv4: OSError: [Errno 5] broken"
    assert set(failed) <= {"peek", "poll", *selftest.CALLS}
