# SPDX-License-Identifier: Apache-2.0
"""Answers to "would it be allowed, and why": from the model, from the kernel, and of recorded traffic."""
