# SPDX-License-Identifier: Apache-2.0
"""The agent of one node: the composition root.

::

    start    settings → lock, listeners, datapath, event loop
    origin   where objects come from: manifests or the API server
    core     the tasks
    devices  follows the node's devices: which is which pod's
    enforcement from devices to endpoints, strict mode's gate
    standing what the agent knows of itself: written by tasks, read by the next two
    report   what the API asks
    policies what is told of policies
    publish  what is written to the API server
    takeover from a kube-proxy and back
    facts    what is made of what is known: for the compiler, for people (pure)

Start: addresses to listen at, the lock, the datapath (attached before anything else is known: with empty
maps it changes nothing, with pinned ones it goes on), then the source, the reconciler and the API. Stop: by
SIGTERM or SIGINT; the datapath stays and serves on.
"""
