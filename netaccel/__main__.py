# SPDX-License-Identifier: Apache-2.0
"""``python -m netaccel`` is ``netaccel``."""

from netaccel.cli import main

main()
