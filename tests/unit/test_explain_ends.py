# SPDX-License-Identifier: Apache-2.0
"""Ends of a question as people write them."""

from __future__ import annotations

import pytest

from netaccel.errors import QuestionError
from netaccel.explain.ends import EndKind, parse_end


@pytest.mark.parametrize(
    ("written", "kind", "name", "port", "protocol"),
    [
        ("pod:shop/web-0", EndKind.POD, "shop/web-0", None, None),
        ("pod:web-0:80", EndKind.POD, "default/web-0", 80, None),
        ("pod:shop/web.0:80/udp", EndKind.POD, "shop/web.0", 80, 17),
        ("service:shop/db:postgres", EndKind.SERVICE, "shop/db", "postgres", None),
        ("service:shop/db:5432/TCP", EndKind.SERVICE, "shop/db", 5432, 6),
        ("node:node-1.example:30080/SCTP", EndKind.NODE, "/node-1.example", 30080, 132),
        ("world", EndKind.WORLD, "/", None, None),
        ("world:443", EndKind.WORLD, "/", 443, None),
    ],
)
def test_an_end_by_name(written: str, kind: EndKind, name: str, port: object, protocol: object) -> None:
    end = parse_end(written)
    assert (end.kind, f"{end.namespace}/{end.name}", end.port, end.protocol) == (kind, name, port, protocol)


@pytest.mark.parametrize(
    ("written", "again"),
    [
        ("ip:10.0.0.1", "ip:10.0.0.1"),
        ("ip:10.0.0.1:80/UDP", "ip:10.0.0.1:80/UDP"),
        ("ip:fd00::1", "ip:fd00::1"),
        ("ip:[fd00::1]", "ip:fd00::1"),
        ("ip:[fd00::1]:80", "ip:[fd00::1]:80"),
        ("pod:web:80/ICMPv6", "pod:default/web:80/ICMPv6"),
        ("world:53/UDP", "world:53/UDP"),
    ],
)
def test_an_end_is_written_as_it_is_read(written: str, again: str) -> None:
    assert str(parse_end(written)) == again
    assert parse_end(again) == parse_end(written)


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ("web", "give pod:NS/NAME"),
        ("pod:", "is no name"),
        ("pod:a/b/c", "is no name"),
        ("pod:Shop/web", "is no name"),
        ("pod:shop/web:0", "give one from 1 to 65535"),
        ("pod:shop/web:65536", "give one from 1 to 65535"),
        ("pod:shop/web:80/QUIC", "protocol QUIC"),
        ("ip:10.0.0.256", "not an IPv4 or IPv6 address"),
        ("ip:[fd00::1", "bracket is not closed"),
        ("ip:[fd00::1]80", "after the bracket"),
    ],
)
def test_what_cannot_be_read_says_why(written: str, why: str) -> None:
    with pytest.raises(QuestionError, match=why):
        parse_end(written)
