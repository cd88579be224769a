# SPDX-License-Identifier: Apache-2.0
"""What the agent writes to the Kubernetes API: NodeState, Events, and what one elected agent does for all."""
