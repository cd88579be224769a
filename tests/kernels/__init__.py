# SPDX-License-Identifier: Apache-2.0
"""Older kernels, for real: each of Debian's stock kernels boots in QEMU and is given the project's programs.

::

    packages   apt, in folders of its own: a kernel's package → vmlinuz and modules in the cache
    image      initramfs: busybox, the modules in their order, /init
    machine    one QEMU without acceleration, one CPU, a time limit; this tree and /usr come by 9p, read-only
    guest      runs inside: objects, doctor, the agent's datapath, tests; one JSON line for each result
    report     the table
"""
