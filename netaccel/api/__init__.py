# SPDX-License-Identifier: Apache-2.0
"""What the agent says over HTTP: ``server`` and ``views``."""
