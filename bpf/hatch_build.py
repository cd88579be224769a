# SPDX-License-Identifier: Apache-2.0
"""Compiles the BPF objects into the wheel, so that its user needs no compiler."""

import subprocess
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BpfBuildHook(BuildHookInterface):
    """Runs ``make -C bpf`` before a wheel is packed; an editable install builds with ``make bpf``."""

    def initialize(self, version: str, build_data: dict) -> None:
        """Build, unless the install is editable."""
        if version != "editable":
            subprocess.run(["make", "-C", str(Path(self.root, "bpf"))], check=True)
