# SPDX-License-Identifier: Apache-2.0
"""What a writer does about the API's refusals: say once what a person must mend, wait for the rest."""

from __future__ import annotations

import logging
from http import HTTPStatus

from netaccel.errors import ApiError

log = logging.getLogger(__name__)

_PASSING = frozenset((0, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS))


def is_passing(error: ApiError) -> bool:
    """Whether the next try may do better although nobody mends anything: no answer, busy, a restart."""
    return error.status in _PASSING or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR


class Complaint:
    """One line about what a person must mend; logged when it changes."""

    def __init__(self, subject: str) -> None:
        """``subject``: what can't be done meanwhile, as "NodeState is not written"."""
        self.text = ""
        """The line, "" where there is nothing to mend."""
        self._subject = subject

    def say(self, reason: str) -> None:
        """Set the line."""
        text = f"{self._subject}: {reason}"
        if text != self.text:
            log.warning("%s", text)
        self.text = text

    def clear(self) -> None:
        """It was mended."""
        if self.text:
            log.info("mended: %s", self.text)
        self.text = ""


def remedy(error: ApiError, kind: str, manifest: str) -> str:
    """Why the API refused to have ``kind`` written, and what to do. ``manifest``: what installs the kind."""
    if error.status == HTTPStatus.NOT_FOUND:
        return f"the cluster does not know {kind}: kubectl apply -k {manifest}"
    if error.status in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED):
        return f"the agent may not write {kind}: kubectl apply -f deploy/base/rbac.yaml ({error})"
    return str(error)
