# SPDX-License-Identifier: Apache-2.0
"""One virtual machine: a kernel, its image, this tree read-only; results come over the second serial port."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.kernels import image
from tests.kernels.packages import Kernel

PROJECT = Path(__file__).parents[2]
_CONSOLE_LINES = 25


class Boot(NamedTuple):
    """What a guest is to do. ``tests``: arguments for pytest; ``limit``: seconds till it is killed."""

    stages: str
    tests: tuple[str, ...]
    limit: float

    def __str__(self) -> str:
        return " ".join([self.stages, *self.tests])


class Outcome(NamedTuple):
    """What the guest said. ``console``: the last lines, where it did not come to its end."""

    results: list[dict[str, Any]]
    ended: bool
    console: str


def missing_tools() -> list[str]:
    """Debian packages that must be installed first."""
    needed = {"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static"}
    return [package for tool, package in needed.items() if not shutil.which(tool)]


def run(kernel: Kernel, boot: Boot) -> Outcome:
    """Boot a kernel once."""
    shares = {"usr": Path("/usr"), "project": PROJECT}
    for tag, prefix in (("venv", Path(sys.prefix)), ("python", Path(sys.base_prefix))):
        if not any(prefix.is_relative_to(path) for path in shares.values()):
            shares[tag] = prefix
    command = shlex.join([sys.executable, "-m", "tests.kernels.guest", boot.stages, *boot.tests])
    with tempfile.TemporaryDirectory(prefix="netaccel-kernel-") as name:
        folder = Path(name)
        initrd, console, results = (folder / part for part in ("initrd", "console", "results"))
        busybox = shutil.which("busybox") or "busybox"
        image.build(kernel.modules, Path(busybox), shares, PROJECT, command, initrd)
        qemu = subprocess.Popen(
            _command(kernel, initrd, shares, console, results),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            errors = qemu.communicate(timeout=boot.limit)[1]
        except subprocess.TimeoutExpired:
            qemu.kill()
            errors = qemu.communicate()[1] + f"killed after {boot.limit:.0f} s"
        said = console.read_text(errors="replace") if console.exists() else ""
        lines = results.read_text(errors="replace").splitlines() if results.exists() else []
    found = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    ended = any(result["stage"] == "end" for result in found)
    tail = "\n".join([*said.splitlines()[-_CONSOLE_LINES:], errors.strip()])
    return Outcome(found, ended, "" if ended else tail)


def _command(
    kernel: Kernel, initrd: Path, shares: dict[str, Path], console: Path, results: Path
) -> list[str]:
    command = ["nice", "-n", "19", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1"]
    command += ["-m", "2048", "-nodefaults", "-no-reboot", "-display", "none"]
    command += ["-kernel", str(kernel.image), "-initrd", str(initrd)]
    command += ["-append", "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off random.trust_cpu=on"]
    command += ["-serial", f"file:{console}", "-serial", f"file:{results}"]
    for tag, path in shares.items():
        share = f"local,path={path},mount_tag={tag},security_model=none,readonly=on,multidevs=remap"
        command += ["-virtfs", share]
    return command
