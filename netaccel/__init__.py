# SPDX-License-Identifier: Apache-2.0
"""netaccel: service load balancing, policy and flow visibility in eBPF, beside any CNI."""

__version__ = "0.1.0"
