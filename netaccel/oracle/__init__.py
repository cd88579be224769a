# SPDX-License-Identifier: Apache-2.0
"""What policies say, evaluated straight from the API's words: slow, obviously right, and on its own.

Shares no code with the compiler, whose oracle it is in property tests; `netaccel explain` asks it too. Pure.
"""
