# SPDX-License-Identifier: Apache-2.0
"""What policies say, evaluated straight from the API's words: slow, obviously right, and on its own.

Shares no code with the compiler, whose oracle it is in property tests; `netaccel explain` asks it too. Pure.
"""

from netaccel.oracle.judge import Exempt, Judgement, Outcome, judge, selecting
from netaccel.oracle.party import Party, Question, census, locate, party_of_pod
from netaccel.oracle.steps import Match, Step, steps

__all__ = [
    "Exempt",
    "Judgement",
    "Match",
    "Outcome",
    "Party",
    "Question",
    "Step",
    "census",
    "judge",
    "locate",
    "party_of_pod",
    "selecting",
    "steps",
]
