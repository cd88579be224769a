# SPDX-License-Identifier: Apache-2.0
"""Why a server could not be asked, in few words that a person can use. Pure."""

from __future__ import annotations

import os
import ssl

import aiohttp

from netaccel.apiserver.servers import Server

CONNECT = 4.0
"""Seconds for a TCP and TLS handshake; then the next address is tried."""
_OTHER_NAME = frozenset((62, 64))  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, ..._IP_ADDRESS_MISMATCH


def is_for_another_name(error: Exception) -> bool:
    """Whether a certificate was refused for its names alone."""
    return getattr(error, "verify_code", 0) in _OTHER_NAME


def reason(error: BaseException) -> str:
    """Why, in few words: the kernel's where it is the kernel's."""
    inner = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(inner, ssl.SSLError):
        return f"TLS: {inner.reason or inner}".replace("_", " ").lower()
    if isinstance(inner, OSError) and inner.strerror:
        # asyncio says the address instead of the reason; a resolver's numbers are its own, below 0.
        text = os.strerror(inner.errno) if inner.errno and inner.errno > 0 else inner.strerror
        return " ".join(text.split()).lower()
    if isinstance(inner, aiohttp.ClientPayloadError):
        return "the connection was cut"
    if isinstance(inner, TimeoutError):
        return f"no connection in {CONNECT:g} s"
    return " ".join(str(inner).split()) or type(inner).__name__


def certificate(server: Server, error: Exception) -> str:
    """What is wrong with a server's certificate, and the remedy."""
    if is_for_another_name(error):
        names = " nor ".join(server.names)
        return (
            f"its certificate is not for {names}: set tls-server-name in the kubeconfig to a name that it has"
        )
    text = getattr(error, "verify_message", "") or str(error)
    return f"its certificate is refused ({text}): give the CA that signed it"
