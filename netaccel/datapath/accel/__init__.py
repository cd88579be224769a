# SPDX-License-Identifier: Apache-2.0
"""Socket to socket in the kernel: the programs of bpf/accel, the self-test, and who may splice."""
