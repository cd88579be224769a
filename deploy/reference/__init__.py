# SPDX-License-Identifier: Apache-2.0
"""Pages that are made from the code: every setting, and what the maps take."""
