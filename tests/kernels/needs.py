# SPDX-License-Identifier: Apache-2.0
"""Marks of tests that some kernels can't run."""

from __future__ import annotations

import pytest

from netaccel.datapath.plane import kernel_version
from tests.kernels.report import SINCE

_ACCEL = SINCE["accel_sockets"]

acceleration = pytest.mark.skipif(
    kernel_version() < _ACCEL, reason=f"acceleration's programs load from {'.'.join(map(str, _ACCEL))} on"
)
