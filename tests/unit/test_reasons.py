# SPDX-License-Identifier: Apache-2.0
"""Why a server could not be asked, in few words."""

from __future__ import annotations

import errno
import socket
import ssl
from types import SimpleNamespace

import aiohttp
import pytest

from netaccel.apiserver.reasons import certificate, is_for_another_name, reason
from netaccel.apiserver.servers import Server

KEY = SimpleNamespace(host="k", port=1, ssl=None, is_ssl=False)
SERVER = Server("https://10.0.0.1:6443", ("10.0.0.1", "10.96.0.1"))


def connecting(error: OSError) -> aiohttp.ClientConnectorError:
    return aiohttp.ClientConnectorError(KEY, error)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (connecting(OSError(errno.ECONNREFUSED, "Connect call failed ('::1', 6443)")), "connection refused"),
        (connecting(OSError(errno.EHOSTUNREACH, "Connect call failed")), "no route to host"),
        (connecting(socket.gaierror(-2, "Name or service not known")), "name or service not known"),
        (connecting(OSError("Multiple exceptions: a, b")), "Multiple exceptions: a, b"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "connection reset by peer"),
        (aiohttp.ClientPayloadError("a long story"), "the connection was cut"),
        (aiohttp.ConnectionTimeoutError("Connection timeout to host"), "no connection in 4 s"),
        (aiohttp.ServerDisconnectedError(), "Server disconnected"),
    ],
)
def test_the_kernels_words_where_it_was_the_kernel(error: BaseException, text: str) -> None:
    assert reason(error) == text


def refused(code: int, message: str) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, message)
    error.verify_code, error.verify_message = code, message
    return error


def test_a_certificate_for_other_names_says_which_were_tried() -> None:
    error = refused(64, "IP address mismatch")
    assert is_for_another_name(error)
    assert certificate(SERVER, error) == (
        "its certificate is not for 10.0.0.1 nor 10.96.0.1:"
        " set tls-server-name in the kubeconfig to a name that it has"
    )


def test_a_certificate_of_another_ca_is_no_matter_of_names() -> None:
    error = refused(20, "unable to get local issuer certificate")
    assert not is_for_another_name(error)
    assert certificate(SERVER, error) == (
        "its certificate is refused (unable to get local issuer certificate): give the CA that signed it"
    )
