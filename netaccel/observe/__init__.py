# SPDX-License-Identifier: Apache-2.0
"""What the maps tell of the past: ``figures`` counters read at most once a second · ``conntrack`` sweeps and
counts flows · ``history`` durations and latencies · ``metrics`` all of it for Prometheus.
"""
