# SPDX-License-Identifier: Apache-2.0
"""``python -m deploy.image``: the image, without a container engine. ``… lock`` renews requirements.txt."""

from __future__ import annotations

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
    build.build(PROJECT, force=bool(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
