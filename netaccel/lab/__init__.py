# SPDX-License-Identifier: Apache-2.0
"""Nodes and pods in network namespaces of one machine: the playground, and the ground of the e2e tests.

``plan`` names and addresses · ``topology`` namespaces and wires · ``cgroups``, ``process`` where
processes run · ``documents`` manifests in, rendered objects out · ``allocate``, ``endpoints`` what an API
server and the endpoint controller do · ``pods``, ``probes``, ``agents`` what a kubelet does · ``controller``
one process that does all that · ``lifecycle`` up and down · ``handle`` a lab for programs · ``server`` the
small server that examples run · ``demo`` the tour.
"""
