# SPDX-License-Identifier: Apache-2.0
"""What several unit tests share."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def compile_text(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], bytes]:
    """From C to the bytes of an object, stripped as the build does."""

    def compiled(text: str) -> bytes:
        folder: Path = tmp_path_factory.mktemp("btf")
        source, out = folder / "text.bpf.c", folder / "text.o"
        source.write_text(text)
        include = f"-I/usr/include/{platform.machine()}-linux-gnu"
        command = ["clang", "-O2", "-g", "-target", "bpf", include, "-c", str(source), "-o", str(out)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        if strip := shutil.which("llvm-strip"):
            subprocess.run([strip, "-g", str(out)], check=True)
        return out.read_bytes()

    return compiled
