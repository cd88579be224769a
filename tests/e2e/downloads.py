# SPDX-License-Identifier: Apache-2.0
"""Downloads that last as long as a test wants them to."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator

from labworld import World

from netaccel.lab.server import digest

SIZE = 24_000_000  # bytes: half a minute, if nobody says that it is enough
_WELL_BEGUN = 10_000  # bytes: no answer to a probe has as many
_CLIENT = """
import hashlib, http.client, select, sys
server = http.client.HTTPConnection(sys.argv[1].removeprefix("http://"), timeout=60)
server.request("GET", "/bytes?n=" + sys.argv[2])
answer, found, enough = server.getresponse(), hashlib.sha256(), False
while data := answer.read(16384):
    found.update(data)
    enough = enough or bool(select.select([sys.stdin], [], [], 0.02)[0])
print(found.hexdigest())
"""


@contextlib.contextmanager
def download(world: World, source: str, address: str, size: int = SIZE) -> Iterator[subprocess.Popen[str]]:
    """A download that goes on slowly meanwhile; then the rest comes fast, and all has arrived whole."""
    command = ("python3", "-c", _CLIENT, address, str(size))
    with world.lab.popen(source, *command, stdin=subprocess.PIPE) as running:
        try:
            yield running
            output, complaint = running.communicate("enough\n", timeout=90)
        finally:
            running.kill()
    assert output.split() == [digest(size)], complaint


def under_way(world: World, pod: str) -> int:
    """How many downloads from a pod have begun and not ended."""
    done = world.lab.run(f"pod:{pod}", "ss", "-Htni", "state", "established", "sport", "=", ":8080")
    return sum(int(sent) > _WELL_BEGUN for sent in re.findall(r"bytes_acked:(\d+)", done.stdout))
