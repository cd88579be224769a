# SPDX-License-Identifier: Apache-2.0
"""The kernel's own drops (bpf/trace/drops.bpf.c): told as long as somebody reads them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from netaccel.datapath import libbpf
from netaccel.datapath.sockiter import open_shared
from netaccel.errors import DatapathError


class KernelDrops:
    """The program on its tracepoint. Its link is not pinned: it ends with this process."""

    def __init__(self, pins: Path, settings: Mapping[str, int]) -> None:
        """``pins``: folder of the node's maps; ``settings``: as the node's other programs have them.

        DatapathError where the kernel lacks what it takes: the reasons of 5.17, or BTF.
        """
        self._object = open_shared("trace_drops", pins, settings)
        try:
            (program,) = self._object.program_names()
            self._link = libbpf.tracepoint_link(self._object.program(program).fd)
        except OSError as error:
            self._object.close()
            raise DatapathError(
                f"tracepoint kfree_skb: can't be attached to: {error.strerror}", error.errno or 0
            ) from error

    def close(self) -> None:
        """No more of them are told."""
        os.close(self._link)
        self._object.close()
