# SPDX-License-Identifier: Apache-2.0
"""``netaccel``, which ``python -m netaccel`` is too."""

import sys

from netaccel.errors import INTERRUPTED


def main() -> None:
    """Run the command of the process's arguments; never returns."""
    try:
        from netaccel.cli import netaccel  # Ctrl-C may come while modules load, too

        netaccel(prog_name="netaccel")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
