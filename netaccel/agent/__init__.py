# SPDX-License-Identifier: Apache-2.0
"""The agent of one node: the composition root.

::

    start    settings → lock, listeners, datapath, event loop
    origin   where objects come from: manifests or the API server
    core     the tasks, and what the API asks
    facts    what is made of what is known: for the compiler, for people (pure)

Start: addresses to listen at, the lock, the datapath (attached before anything else is known: with empty
maps it changes nothing, with pinned ones it goes on), then the source, the reconciler and the API. Stop: by
SIGTERM or SIGINT; the datapath stays and serves on.
"""
