# SPDX-License-Identifier: Apache-2.0
"""Locks the wheels that the image gets: versions and hashes of what ``pyproject.toml`` asks for.

``python -m deploy.image lock`` writes ``requirements.txt``. Each wheel is chosen for the image's Python on
both machines, whatever runs this; nothing is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "requirements.txt"
_MACHINES = ("x86_64", "aarch64")
_HEAD = (
    "# Made by `python -m deploy.image lock` from pyproject.toml: the image's wheels, for both machines.\n"
)


def lock(project: Path) -> str:
    """Ask the index and return the text of ``requirements.txt``."""
    wanted = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    locked: dict[str, set[str]] = {}
    for machine in _MACHINES:
        for name, hash_ in _resolve(wanted, machine):
            locked.setdefault(name, set()).add(hash_)
    lines = [
        " \\\n".join([name, *(f"    --hash={h}" for h in sorted(locked[name]))]) for name in sorted(locked)
    ]
    return _HEAD + "\n".join(lines) + "\n"


def _resolve(wanted: list[str], machine: str) -> list[tuple[str, str]]:
    """Name and version, and hash, of every wheel that ``machine`` would install."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--dry-run"]
    command += ["--ignore-installed", "--only-binary=:all:", "--implementation", "cp", "--report", "-"]
    command += ["--python-version", "3.11", "--target", "unused"]
    for glibc in ("2_17", "2_28"):
        command += ["--platform", f"manylinux_{glibc}_{machine}"]
    answer = subprocess.run([*command, *wanted], check=True, capture_output=True, text=True)
    found = []
    for item in json.loads(answer.stdout)["install"]:
        meta, hashes = item["metadata"], item["download_info"]["archive_info"]["hashes"]
        found.append((f"{meta['name'].lower()}=={meta['version']}", f"sha256:{hashes['sha256']}"))
    return found
