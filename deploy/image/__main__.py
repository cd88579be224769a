# SPDX-License-Identifier: Apache-2.0
"""``python -m deploy.image``: the image, without a container engine. ``… lock`` renews requirements.txt."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deploy.image import build, lock

PROJECT = Path(__file__).parents[2]


def main(arguments: list[str]) -> int:
    """Run what is asked; 2 for what is no command."""
    if arguments == ["lock"]:
        lock.REQUIREMENTS.write_text(lock.lock(PROJECT / "pyproject.toml"), encoding="utf-8")
        return 0
    if arguments not in ([], ["--force"]):
        sys.stderr.write("usage: python -m deploy.image [--force | lock]\n")
        return 2
    try:
        build.build(PROJECT, force=bool(arguments))
    except FileNotFoundError as error:
        sys.stderr.write(f"image: {error.filename} is missing: `scripts/setup cluster` installs the tools\n")
        return 1
    except subprocess.CalledProcessError as error:
        tool = next(word for word in map(str, error.cmd) if "=" not in word and word != "env")
        sys.stderr.write(f"image: {tool} failed with status {error.returncode}: its own words are above\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
