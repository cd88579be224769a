# SPDX-License-Identifier: Apache-2.0
"""The byte-exact chaos load (bench/load/chaos): compiled, run, and held to its accounts.

Each side of each connection leaves a record of what the application wrote and read, and of what TCP says that
it carried. What a socket wrote is what TCP was given of it and what was redirected: to the byte.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import NamedTuple

SOURCES = Path(__file__).parent / "load" / "chaos"
OUT = Path("build/bench/chaos")
PATIENCE = 300.0
_RECORD = Struct("=7Q2I")
Place = Callable[[Sequence[str]], list[str]]


class Record(NamedTuple):
    """A connection as one side saw it; bytes. ``tcp_out``, ``tcp_in``: by TCP's own count.

    ``tcp_in`` counts only where the connection is ``clean``: both sides read all and the end. ``refused``: of
    the last write, where that failed. The programs may have counted these bytes: the kernel asks them first,
    and then finds that the other end was closed meanwhile.
    """

    id: int
    cookie: int
    sent: int
    received: int
    tcp_out: int
    tcp_in: int
    refused: int
    side: int
    clean: int


class Counts(NamedTuple):
    """What one side counted.

    ``odd``: results of calls that TCP would not give; ``spurious``: readable, as was told, but not really.
    ``stall``: milliseconds that a connection stood still at the longest, pauses of the plan included.
    """

    connections: int
    clean: int
    sent: int
    received: int
    wrong: int
    hangs: int
    odd: int
    spurious: int
    stall: int


class Outcome(NamedTuple):
    """Of one run. ``complaints``: lines of the two programs."""

    client: Counts
    server: Counts
    records: list[Record]
    complaints: str

    @property
    def bad(self) -> int:
        """Wrong bytes, hangs and odd results."""
        return sum(side.wrong + side.hangs + side.odd for side in (self.client, self.server))

    @property
    def sent(self) -> int:
        """Bytes that both sides wrote."""
        return sum(record.sent for record in self.records)

    @property
    def redirected(self) -> int:
        """Bytes that were written and that TCP was not given."""
        return self.sent - sum(record.tcp_out for record in self.records)

    @property
    def refused(self) -> int:
        """Bytes that were not written, but may have been counted as redirected."""
        return sum(record.refused for record in self.records)


def program() -> str:
    """The compiled program."""
    sources = sorted(SOURCES.glob("*.c"))
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    if not OUT.exists() or OUT.stat().st_mtime < newest:
        OUT.parent.mkdir(parents=True, exist_ok=True)
        fresh = OUT.with_suffix(f".{os.getpid()}")
        subprocess.run(["clang", "-O2", "-Wall", "-Wextra", "-Werror", *sources, "-o", fresh], check=True)
        fresh.replace(OUT)
    return str(OUT.resolve())


class Chaos:
    """A server and a client, running. ``seed``: of all that they do."""

    def __init__(
        self, server: Place | None, client: Place, address: str, port: int, folder: Path, pace: int
    ) -> None:
        """``server``, ``client``: make a command run where it shall; ``folder``: for their records."""
        self.seed, self._pace = random.getrandbits(63), str(pace)
        self._folder, self._address, self._port = folder, address, str(port)
        self._client_place = client
        self._server = self._start(server, "serve") if server else None
        self._client: subprocess.Popen[str] | None = None

    def drive(self, connections: int, at_once: int) -> None:
        """Begin."""
        echo = () if self._server else ("echo",)
        self._client = self._start(self._client_place, "drive", str(connections), str(at_once), *echo)

    @property
    def running(self) -> bool:
        """Whether connections are still to come or open."""
        return self._client is not None and self._client.poll() is None

    @property
    def done(self) -> int:
        """Connections that the client has ended so far."""
        logs = self._folder.glob(f"drive{self._port}.[0-9]*")
        return sum(log.stat().st_size for log in logs) // _RECORD.size

    def outcome(self) -> Outcome:
        """Wait for the end. RuntimeError where a program failed."""
        assert self._client
        client = self._counts(self._client, "drive")
        server = Counts(*(0 for _ in Counts._fields))
        if self._server:
            self._server.terminate()
            server = self._counts(self._server, "serve")
        records = [
            Record(*fields)
            for log in sorted(self._folder.glob(f"*{self._port}.[0-9]*"))
            for fields in _RECORD.iter_unpack(log.read_bytes())
        ]
        complaints = "".join(path.read_text() for path in sorted(self._folder.glob(f"*{self._port}.errors")))
        return Outcome(client, server, records, complaints)

    def close(self) -> None:
        """End both, whatever they do."""
        for process in (self._client, self._server):
            if process and process.poll() is None:
                process.kill()
            if process:
                process.communicate()

    def _errors(self, verb: str) -> Path:
        return self._folder / f"{verb}{self._port}.errors"

    def _start(self, place: Place, verb: str, *more: str) -> subprocess.Popen[str]:
        command = ["nice", program(), verb, self._address, self._port, str(self.seed)]
        command += [str(self._folder / f"{verb}{self._port}"), self._pace, *more]
        with self._errors(verb).open("w") as errors:
            process = subprocess.Popen(place(command), stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout
        if verb == "serve" and process.stdout.readline() != "ready\n":
            process.kill()
            process.communicate()
            raise RuntimeError(f"chaos does not listen: {self._errors(verb).read_text()}")
        return process

    def _counts(self, process: subprocess.Popen[str], verb: str) -> Counts:
        said, _ = process.communicate(timeout=PATIENCE)
        if process.returncode:
            raise RuntimeError(
                f"chaos {verb}: {process.returncode}: {self._errors(verb).read_text()[-2000:]}"
            )
        return Counts(**json.loads(said))


@contextmanager
def load(
    server: Place | None, client: Place, address: str, port: int, folder: Path, pace: int = 1
) -> Iterator[Chaos]:
    """A server that listens; drive it. ``pace``: seconds that a connection lives, roughly.

    ``server``: None where another program listens that gives back what it gets.
    """
    chaos = Chaos(server, client, address, port, folder, pace)
    try:
        yield chaos
    finally:
        chaos.close()


def unaccounted(records: Sequence[Record], redirected: Mapping[int, int]) -> list[str]:
    """Sockets whose bytes do not add up. ``redirected``: bytes that each socket sent past TCP, by cookie."""
    found = []
    ends: dict[int, dict[int, Record]] = {}
    for record in records:
        ends.setdefault(record.id, {})[record.side] = record
        past = redirected.get(record.cookie, 0)
        if not 0 <= record.tcp_out + past - record.sent <= record.refused:
            found.append(f"written {record.sent} is not {record.tcp_out} by TCP and {past} past it: {record}")
    for sides in ends.values():
        if len(sides) == 2 and all(side.clean for side in sides.values()):
            for side in (0, 1):
                reader, writer = sides[side], sides[1 - side]
                past = redirected.get(writer.cookie, 0)
                if reader.received != writer.sent or reader.received != reader.tcp_in + past:
                    found.append(
                        f"read {reader.received} is not {reader.tcp_in} and {past}: {reader} {writer}"
                    )
    return found
