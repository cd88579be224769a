# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes cluster in namespaces of this machine: ``netaccel cluster up|down`` and the tests' ground."""
