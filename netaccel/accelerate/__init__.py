# SPDX-License-Identifier: Apache-2.0
"""Same-node acceleration: which connections go from socket to socket, and what became of them.

Pure: :mod:`.pairing` (whose other end a socket is), :mod:`.evidence` (which pairs are worth it),
:mod:`.wishes` (what annotations ask for), :mod:`.view` (what is told). Effects: :mod:`.engine`.
"""
