# SPDX-License-Identifier: Apache-2.0
"""Every error that netaccel raises on purpose.

::

    NetaccelError
    ├── ConfigError            a flag, variable or file of settings
    ├── ObjectError            a Kubernetes object that can't be used: where in it, and why
    ├── QuestionError          a question to `explain` that can't be asked: what in it
    ├── CapacityError          what does not fit: a full map, no free id, no free range
    ├── AbiError               the objects' BTF and the records disagree
    ├── LabError               the lab, or the cluster in namespaces, can't do what was asked
    ├── ApiError               the API server said no: status, reason, seconds to wait
    │   └── ApiUnreachableError    ... or could not be asked at all
    └── DatapathError          the kernel refused something
        ├── VerifierError      ... a program; keeps the verifier's whole log
        ├── AttachError        ... a hook: busy, absent, or not possible on that device
        ├── MapFullError       ... an entry, because the map is full (E2BIG, ENOSPC, ENOMEM)
        └── UnsupportedError   ... a feature that this kernel lacks

A message says what, where and the remedy in one line. Causes are chained.
"""

from __future__ import annotations

INTERRUPTED = 130
"""Exit status: ended by SIGINT, as a shell tells it (128 and the signal's number)."""


class NetaccelError(Exception):
    """Base of all errors below; its text is fit for a person."""


class ConfigError(NetaccelError):
    """A setting is missing or wrong."""


class ObjectError(NetaccelError):
    """An object failed validation at ``path`` (as ``spec.ports[0].port``) for ``reason``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


class QuestionError(NetaccelError):
    """A question names what isn't there, or can't be read."""


class CapacityError(NetaccelError):
    """Something does not fit; the old state stays in force."""


class AbiError(NetaccelError):
    """A struct of the object's BTF and its record differ; the build and the package don't match."""


class LabError(NetaccelError):
    """The lab is not up, is half there, or a tool that builds it failed."""


class ApiError(NetaccelError):
    """The API server refused a request.

    ``status``: HTTP's, 0 where there was no answer. ``reason``: of metav1.Status, as ``Expired`` or
    ``Forbidden``; "" where the body was none. ``retry_after``: seconds that the server asks to wait, or None.
    """

    def __init__(
        self, message: str, status: int = 0, reason: str = "", retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.retry_after = retry_after


class ApiUnreachableError(ApiError):
    """No API server could be reached, or the one that was stopped answering."""


class DatapathError(NetaccelError):
    """The kernel refused a call. ``errno`` is the kernel's, 0 where there is none."""

    def __init__(self, message: str, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class VerifierError(DatapathError):
    """A program was refused; ``log`` is the verifier's, whole."""

    def __init__(self, message: str, errno: int, log: str) -> None:
        super().__init__(message, errno)
        self.log = log


class AttachError(DatapathError):
    """A hook could not be taken."""


class MapFullError(DatapathError):
    """A map has no room; ``written`` entries of the batch went in before it."""

    def __init__(self, message: str, errno: int, written: int = 0) -> None:
        super().__init__(message, errno)
        self.written = written


class UnsupportedError(DatapathError):
    """This kernel or library lacks a feature; the message names it and what is used instead."""
