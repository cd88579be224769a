# SPDX-License-Identifier: Apache-2.0
"""Recorded edges: who talked to whom for days, in bounded space on disk.

::

    flow records ─▶ edge (pure) ─▶ recorder (in memory, adds up) ─thread─▶ store (SQLite, one file a node)
                                                                              └─▶ reader ─▶ preview, API

A node records what it judged itself: an edge is one direction at one pod. Its file is the only thing that
outlives a reboot; nothing is served from it, so that whatever happens to it flows go on.
"""
