# SPDX-License-Identifier: Apache-2.0
"""Which processes may do calls that go wrong when accelerated, asked of real ones that are compiled here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from netaccel.datapath.accel import elf, programs
from netaccel.datapath.accel.elf import Image
from netaccel.datapath.accel.programs import Call, why_may_call, why_may_splice, why_pod_may_call

WAIT = 'char b[1];\nint main(void) { write(1, "r", 1); return read(0, b, 1) < 0; }\n'
PLAIN = "#include <unistd.h>\n" + WAIT
USES_SPLICE = "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <unistd.h>\nvoid *use = (void *)splice;\n"
SPLICER = USES_SPLICE + WAIT
WEAK = """
#include <unistd.h>
extern long splice() __attribute__((weak));
int main(void) { char b[1]; write(1, splice ? "r" : "n", 1); return read(0, b, 1) < 0; }
"""
VMSPLICE = (
    "#define _GNU_SOURCE\n#include <fcntl.h>\n#include <unistd.h>\nvoid *use = (void *)vmsplice;\n" + WAIT
)
GO_NOTE = (
    '__asm__(".section .note.go.buildid,\\"a\\",@note; .balign 4; .long 4, 4, 4; .asciz \\"Go\\";'
    ' .balign 4; .long 7; .text");\n'
)
LEADER_GONE = """
#include <pthread.h>
#include <unistd.h>
static void *rest(void *leader)
{
	char b[1];

	pthread_join(*(pthread_t *)leader, 0);
	write(1, "r", 1);
	_exit(read(0, b, 1) < 0);
}
int main(void)
{
	static pthread_t leader, other;

	leader = pthread_self();
	pthread_create(&other, 0, rest, &leader);
	pthread_exit(0);
}
"""
RING = """
#include <linux/io_uring.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void)
{
	struct io_uring_params params = { 0 };
	int ring = syscall(SYS_io_uring_setup, 2, &params);
	char b[1];

	write(1, ring < 0 || mmap(0, 4096, 3, MAP_SHARED, ring, 0) == MAP_FAILED ? "n" : "r", 1);
	return read(0, b, 1) < 0;
}
"""
LOADER = """
#include <dlfcn.h>
#include <unistd.h>
int main(int argc, char **argv)
{
	char b[1];

	while (write(1, "r", 1) == 1 && read(0, b, 1) == 1)
		dlopen(argv[1], RTLD_NOW);
	return 0;
}
"""

Build = Callable[..., Path]


class Process:
    """A program of the tests; ready when made, and it waits for a byte."""

    def __init__(self, *command: str | Path) -> None:
        self._child = subprocess.Popen(
            [str(part) for part in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self._child.pid
        self.said = self.read()

    def read(self) -> bytes:
        assert self._child.stdout
        return self._child.stdout.read(1)

    def poke(self) -> bytes:
        assert self._child.stdin
        self._child.stdin.write(b"x")
        self._child.stdin.flush()
        return self.read()

    def end(self) -> None:
        self._child.communicate()


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    with ExitStack() as stack:

        def started(*command: str | Path) -> Process:
            process = Process(*command)
            stack.callback(process.end)
            return process

        yield started


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def compiled(text: str, name: str, *flags: str) -> Path:
        source = tmp_path / f"{name}.c"
        source.write_text(text)
        out = tmp_path / name
        subprocess.run(["clang", "-O1", "-w", str(source), "-o", str(out), *flags], check=True)
        return out

    return compiled


def test_a_plain_program_cannot(build: Build, start: Start) -> None:
    assert why_may_splice(start(build(PLAIN, "plain")).pid) == ""


@pytest.mark.parametrize("flags", [(), ("-no-pie",), ("-Wl,--hash-style=sysv",), ("-s",)])
def test_an_import_is_seen(build: Build, start: Start, flags: tuple[str, ...]) -> None:
    assert why_may_splice(start(build(SPLICER, "proxy", *flags)).pid) == "proxy imports splice"


def test_a_weak_import_is_seen(build: Build, start: Start) -> None:
    assert why_may_splice(start(build(WEAK, "rusty", "-no-pie")).pid) == "rusty imports splice"


def test_a_name_that_ends_so_is_another(build: Build, start: Start) -> None:
    assert why_may_splice(start(build(VMSPLICE, "giver")).pid) == ""


def test_a_library_that_is_loaded_later_is_seen_then(build: Build, start: Start) -> None:
    library = build(USES_SPLICE, "libproxy.so", "-shared", "-fPIC")
    process = start(build(LOADER, "loader", "-ldl"), library)
    assert why_may_splice(process.pid) == ""
    process.poke()
    assert why_may_splice(process.pid) == "libproxy.so imports splice"


@pytest.mark.parametrize("flag", ["-static", "-static-pie"])
def test_a_static_program_cannot_be_known(build: Build, start: Start, flag: str) -> None:
    assert why_may_splice(start(build(PLAIN, "whole", flag)).pid) == "whole is a static program"


def test_go_splices_by_itself(build: Build, start: Start) -> None:
    assert why_may_splice(start(build(GO_NOTE + PLAIN, "gopher")).pid) == (
        "gopher is written in Go, which calls the kernel by itself"
    )


def test_a_ring_may_splice(build: Build, start: Start) -> None:
    process = start(build(RING, "ring"))
    # A kernel that refuses rings leaves nothing to see.
    expected = "holds an io_uring, which may splice" if process.said == b"r" else ""
    assert why_may_splice(process.pid) == expected


def test_a_deleted_program_is_read_all_the_same(build: Build, start: Start) -> None:
    found = build(SPLICER, "proxy"), build(PLAIN, "plain")
    proxy, plain = map(start, found)
    for path in found:
        path.unlink()
    assert why_may_splice(proxy.pid) == "proxy imports splice"
    assert why_may_splice(plain.pid) == ""


def test_a_file_that_is_replaced_is_read_again(build: Build, start: Start) -> None:
    first = start(build(PLAIN, "changing"))
    assert why_may_splice(first.pid) == ""
    first.end()
    second = start(build(SPLICER, "changing"))
    assert why_may_splice(second.pid) == "changing imports splice"


def test_a_process_whose_first_thread_ended(build: Build, start: Start) -> None:
    process = start(build(LEADER_GONE, "headless", "-pthread"))
    assert why_may_splice(process.pid) == ""
    splicer = start(build(USES_SPLICE + LEADER_GONE, "spliced", "-pthread"))
    assert why_may_splice(splicer.pid) == "spliced imports splice"


def test_a_process_that_ended_cannot(build: Build, start: Start) -> None:
    process = start(build(SPLICER, "proxy"))
    process.end()
    assert why_may_splice(process.pid) == ""


def test_a_zombie_cannot(build: Build) -> None:
    child = subprocess.Popen([build(SPLICER, "proxy")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    try:
        assert why_may_splice(child.pid) == ""
    finally:
        child.wait()


def test_a_kernel_thread_cannot() -> None:
    if Path("/proc/2/comm").exists() and Path("/proc/2/comm").read_text().strip() == "kthreadd":
        assert why_may_splice(2) == ""


def test_python_can() -> None:
    assert hasattr(os, "splice")
    assert why_may_splice(os.getpid()).endswith(" imports splice (os.splice)")
    assert "python" in why_may_splice(os.getpid())


ASKS = """
#include <sys/ioctl.h>
#include <unistd.h>
static int count(int end) { int n = 0; return ioctl(end, FIONREAD, &n) ? -1 : n; }
char b[1];
int main(void) { write(1, "r", 1); return read(0, b, 1) < 0 || count(0) > 0; }
"""


def test_who_asks_how_much_is_there_is_seen(build: Build, start: Start) -> None:
    asks, tty = start(build(ASKS, "asks")), start(build(ASKS.replace("FIONREAD", "TIOCGWINSZ"), "tty"))
    assert why_may_call(asks.pid, {Call.FIONREAD}) == "asks asks FIONREAD"
    assert why_may_call(asks.pid, {Call.SPLICE}) == ""
    assert why_may_call(tty.pid, set(Call)) == ""


def test_who_asks_in_a_library_is_seen(build: Build, start: Start) -> None:
    library = build(ASKS.replace("int main", "int part"), "libasks.so", "-shared", "-fPIC")
    process = start(build(LOADER, "loader", "-ldl"), library)
    process.poke()
    assert why_may_call(process.pid, {Call.FIONREAD}) == "libasks.so asks FIONREAD"
    event = start(
        build(LOADER, "loader", "-ldl"), shutil.copy(library, library.with_name("libevent-2.1.so.7"))
    )
    event.poke()
    assert why_may_call(event.pid, {Call.FIONREAD}) == ""


@pytest.mark.parametrize("part", [16, 4096])
def test_code_is_read_in_parts(build: Build, monkeypatch: pytest.MonkeyPatch, part: int) -> None:
    monkeypatch.setattr(elf, "_PART", part)
    for text, expected in ((ASKS, True), (ASKS.replace("FIONREAD", "TIOCGWINSZ"), False)):
        image = programs._look(str(build(text, "asks")))
        assert image is not None
        assert image.counts is expected


def test_nobody_is_asked_where_nothing_is_broken() -> None:
    assert why_pod_may_call([os.getpid()], frozenset()) == ""


@pytest.mark.parametrize("program", ["nginx", "wrk", "cat"])
def test_who_counts_on_this_machine(program: str) -> None:
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin")
    if path is not None:
        image = programs._look(path)
        assert image is not None
        assert image.counts


@pytest.mark.parametrize("program", ["redis-server", "curl", "postgres", "true"])
def test_what_the_machine_has(program: str) -> None:
    path = shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/usr/lib/postgresql/15/bin")
    if path is not None:  # each of them reads sockets by recv or read
        image = programs._look(path)
        assert image is not None
        assert image == Image(splices=False, counts=False, go=False, interpreted=True)


def test_a_pod_may_where_one_of_its_processes_may(build: Build, start: Start) -> None:
    plain, proxy = start(build(PLAIN, "plain")), start(build(SPLICER, "proxy"))
    assert why_pod_may_call([plain.pid, proxy.pid], {Call.SPLICE}) == "proxy imports splice"
    assert why_pod_may_call([plain.pid, proxy.pid], {Call.FIONREAD}) == ""
    assert why_pod_may_call([plain.pid], set(Call)) == ""
    assert why_pod_may_call([], set(Call)) == ""


@pytest.mark.parametrize("cut", [5, 20, 63, 100, 2000])
def test_a_broken_file_is_refused(build: Build, cut: int) -> None:
    path = build(SPLICER, "broken")
    data = path.read_bytes()
    path.write_bytes(data[:cut])
    with pytest.raises(ValueError, match="broken ELF file"):
        programs._look(str(path))


def test_a_file_of_another_kind_is_nobodys_program(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("splice\0")
    assert programs._look(str(text)) is None
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    assert programs._look(str(fifo)) is None


def test_what_is_remembered_is_bounded(build: Build, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_MAX_FILES", 2)
    process = start(build(PLAIN, "plain"))
    assert why_may_splice(process.pid) == ""
    assert why_may_splice(process.pid) == ""
    assert len(programs._known) <= 2


def test_processes_that_come_and_go_raise_nothing() -> None:
    """Children that exec and end all the while are looked at in every state."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            subprocess.run([shutil.which("true") or "true"], check=True)

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(60):
            for child in _children():
                assert isinstance(why_may_splice(child), str)
    finally:
        stop.set()
        thread.join()


def _children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


@pytest.mark.root
def test_without_the_right_to_look_it_says_which(start: Start, build: Build) -> None:
    process = start(build(PLAIN, "plain"))
    text = f"""
import os, sys
sys.path[:] = {sys.path!r}
from netaccel.datapath.accel.programs import why_may_splice
os.setgroups([]), os.setgid(65534), os.setuid(65534)
print(why_may_splice({process.pid}))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert "can't be looked at" in done.stdout
    assert "CAP_SYS_PTRACE" in done.stdout


@pytest.mark.root
def test_without_map_files_the_path_serves(start: Start, build: Build) -> None:
    """A process of the same user may be looked at, its ``map_files`` may not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        plain = Path(shutil.copy(build(PLAIN, "plain"), folder))
        proxy = Path(shutil.copy(build(SPLICER, "proxy"), folder))
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
        pids = [start(*nobody, program).pid for program in (plain, proxy)]
        text = f"""
import os, sys
sys.path[:] = {sys.path!r}
from netaccel.datapath.accel.programs import why_may_splice
os.setgroups([]), os.setgid(65534), os.setuid(65534)
print([why_may_splice(pid) for pid in {pids}])
"""
        done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['', 'proxy imports splice']"
