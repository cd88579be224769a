# SPDX-License-Identifier: Apache-2.0
"""What the project measures of itself, each beside a peer or a floor in the same run. ``make bench``."""
