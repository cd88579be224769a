# SPDX-License-Identifier: Apache-2.0
"""Kubernetes' objects as netaccel needs them: typed, immutable, no I/O.

``address`` the one 16-byte form · ``service`` Services · ``endpoint`` slices, pods, nodes, namespaces ·
``policy`` policies of all kinds ·
``event`` what a source says · ``snapshot`` the world as last heard, indexed for the compiler.
"""
