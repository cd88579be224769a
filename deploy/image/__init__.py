# SPDX-License-Identifier: Apache-2.0
"""Makes netaccel's container image from distribution packages and locked wheels."""
