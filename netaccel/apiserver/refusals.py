# SPDX-License-Identifier: Apache-2.0
"""An API server's no, as an error with one line. Pure.

Kinds of no: the body of an answer whose status isn't 2xx, and the object of a watch's ERROR event; both are
a metav1.Status where the API server itself speaks, and anything where a proxy does.
"""

from __future__ import annotations

import email.utils
import time
from http import HTTPStatus

import msgspec

from netaccel.errors import ApiError

EXPIRED = frozenset(("Expired", "Gone"))
TOO_LARGE = "ResourceVersionTooLarge"
"""Not a reason of metav1.Status but of one of its causes: the server is older than what was asked for."""

_REMEDIES = {
    401: "renew the token or certificate in there",
    403: "grant it with the rights of deploy/base/rbac.yaml",
    404: "use Kubernetes 1.21 or later, and install the project's CRDs",
    429: "it is busy, it is asked again later",
}
_NO_NAMESPACE = "make that namespace: kubectl apply -k deploy/"
_ALL = 300  # characters of a message that are repeated


class _Cause(msgspec.Struct):
    reason: str | None = None


class _Details(msgspec.Struct, rename="camel"):
    kind: str | None = None
    causes: list[_Cause] | None = None
    retry_after_seconds: float | None = None


class _Status(msgspec.Struct):
    kind: str | None = None
    message: str | None = None
    reason: str | None = None
    code: int | None = None
    details: _Details | None = None


_DECODER = msgspec.json.Decoder(_Status)


def refusal(
    what: str, body: bytes | msgspec.Raw, status: int = 0, retry_after: str | None = None
) -> ApiError:
    """Make the error of an answer. ``what`` was asked for; ``status`` 0: the body says it (a watch's event).

    ``retry_after``: the header, in seconds or as a date (RFC 9110, 10.2.3).
    """
    said = _read(body)
    status = status or said.code or 0
    details = said.details or _Details()
    causes = {cause.reason for cause in details.causes or ()}
    reason = TOO_LARGE if TOO_LARGE in causes else said.reason or ""
    wait = _seconds(retry_after)
    if wait is None and details.retry_after_seconds is not None:
        wait = max(0.0, details.retry_after_seconds)
    text = " ".join((said.message or "").split())[:_ALL]
    remedy = _NO_NAMESPACE if _lacks_namespace(status, details) else _REMEDIES.get(status, "")
    line = ": ".join(part for part in (what, f"{status} {_phrase(status)}".strip(), text, remedy) if part)
    return ApiError(line, status, reason, wait)


def is_expired(error: ApiError) -> bool:
    """Whether the resource version that was asked for is no longer kept."""
    return error.status == HTTPStatus.GONE or error.reason in EXPIRED


def is_too_large(error: ApiError) -> bool:
    """Whether the server's state is older than the resource version that was asked for."""
    return error.reason == TOO_LARGE


def _read(body: bytes | msgspec.Raw) -> _Status:
    try:
        found = _DECODER.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _Status()  # a proxy's page: its status alone speaks
    return found if found.kind == "Status" else _Status()


def _lacks_namespace(status: int, details: _Details) -> bool:
    """Whether what is missing is not the object or its kind, but the namespace that it would be made in."""
    return status == HTTPStatus.NOT_FOUND and details.kind == "namespaces"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _seconds(header: str | None) -> float | None:
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None
