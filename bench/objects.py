# SPDX-License-Identifier: Apache-2.0
"""The bench's own BPF programs, compiled when they are needed."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

from netaccel.datapath.bpfobject import BpfObject

HERE = Path(__file__).parent
OUT = Path("build/bench")


def compiled(name: str) -> BpfObject:
    """``bench/bpf/NAME.bpf.c``, opened and not loaded."""
    source, out = HERE / "bpf" / f"{name}.bpf.c", OUT / f"{name}.o"
    newest = max(p.stat().st_mtime for p in (HERE / "bpf").iterdir())
    if not out.exists() or out.stat().st_mtime < newest:
        OUT.mkdir(parents=True, exist_ok=True)
        command = ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"]
        command += ["-Wno-unused-parameter", f"-I/usr/include/{platform.machine()}-linux-gnu"]
        subprocess.run([*command, "-c", str(source), "-o", str(out)], check=True)
    return BpfObject(out)
