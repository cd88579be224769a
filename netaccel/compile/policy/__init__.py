# SPDX-License-Identifier: Apache-2.0
"""From policies, pods and namespaces to the entries of the policy maps. Pure.

::

    pods, nodes, CIDRs ──identities─▶ numbers ─┐
    policies ──selectors─▶ peers' identities ──┴─rows─▶ (subject, direction, peer) → (port) → verdict
"""
