# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes cluster in namespaces of this machine: for ``netaccel cluster`` and for tests."""
