# SPDX-License-Identifier: Apache-2.0
"""What ``netaccel`` can do, one module a command; :mod:`netaccel.cli` imports each when it is asked for."""
