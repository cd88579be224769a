# SPDX-License-Identifier: Apache-2.0
"""What the parts that need a cluster share.

::

    ground    two nodes, a client outside, pods, a control plane: the lab's topology, a real API server
    crowd     the Services and EndpointSlices that are loaded (pure), with canaries among them
    loader    requests to the API server, many at a time
    proxies   netaccel, kube-proxy with nftables, kube-proxy with iptables: started, ended, cleared away
    meter     CPU and memory of a cgroup
    client    a process of a pod, a node or the outside: serves, asks, takes times
    asking    starts such processes and reads what they tell
"""
