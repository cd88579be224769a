# SPDX-License-Identifier: Apache-2.0
"""The kernel's side: programs, maps, links and devices. Everything here has effects; btf and abi are pure."""
