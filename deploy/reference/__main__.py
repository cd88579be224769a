# SPDX-License-Identifier: Apache-2.0
"""``python -m deploy.reference`` writes docs/configuration.md; ``… capacity`` prints what maps take."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.reference import capacity, settings

PAGE = Path(__file__).parents[2] / "docs/configuration.md"


def main(arguments: list[str]) -> int:
    """Run what is asked; 2 for what is no command."""
    if arguments == ["capacity"]:
        sys.stdout.write(capacity.table(capacity.measure()))
        return 0
    if arguments:
        sys.stderr.write("usage: python -m deploy.reference [capacity]\n")
        return 2
    PAGE.write_text(settings.page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
