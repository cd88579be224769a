# SPDX-License-Identifier: Apache-2.0
"""Whose other end a socket is."""

from __future__ import annotations

from typing import NamedTuple

from netaccel.accelerate import pairing
from netaccel.accelerate.pairing import Pair, Place, pair
from netaccel.model.address import parse_address
from netaccel.model.endpoint import PodKey


class Sock(NamedTuple):
    cookie: int
    netns: int
    src: bytes
    dst: bytes
    sport: int
    dport: int


A, B, FAR, LOOP = (parse_address(text) for text in ("10.0.1.5", "10.0.2.5", "192.0.2.1", "127.0.0.1"))
PLACES = {1: Place(PodKey("shop", "a"), (A,)), 2: Place(PodKey("shop", "b"), (B,))}


def both(first: int = 1, second: int = 2, at: tuple[bytes, bytes] = (A, B), cookies: int = 10) -> list[Sock]:
    one, other = at
    return [Sock(cookies, first, one, other, 4000, 80), Sock(cookies + 1, second, other, one, 80, 4000)]


def test_two_pods_sockets_that_mirror_each_other_are_a_pair() -> None:
    found = pair(both(), PLACES)
    assert found.pairs == (Pair(10, 11, inside=False),)
    assert not found.alone


def test_a_pods_own_connections_are_pairs_at_any_address() -> None:
    assert pair(both(1, 1, (LOOP, LOOP)), PLACES).pairs == (Pair(10, 11, inside=True),)
    assert pair(both(1, 1, (A, A)), PLACES).pairs == (Pair(10, 11, inside=True),)


def test_equal_tuples_of_two_pods_are_never_mixed() -> None:
    sockets = both(1, 1, (LOOP, LOOP)) + both(2, 2, (LOOP, LOOP), cookies=20)
    assert set(pair(sockets, PLACES).pairs) == {Pair(10, 11, inside=True), Pair(20, 21, inside=True)}
    alone = [both(1, 1, (LOOP, LOOP))[0], both(2, 2, (LOOP, LOOP), cookies=20)[1]]
    assert not pair(alone, PLACES).pairs, "half of one in each"


def test_what_is_translated_in_between_is_no_pair() -> None:
    client = Sock(10, 1, A, B, 4000, 80)
    server = Sock(11, 2, B, A, 8080, 4000)  # its port was rewritten
    assert pair([client, server], PLACES).alone == {10: pairing.TRANSLATED, 11: pairing.TRANSLATED}


def test_reasons() -> None:
    def why(sock: Sock, *more: Sock) -> str:
        return pair([sock, *more], PLACES, of_node={FAR}, unreached={parse_address("10.0.3.5")}).alone[1]

    assert why(Sock(1, 1, A, parse_address("192.0.2.9"), 4000, 80)) == pairing.ELSEWHERE
    assert why(Sock(1, 1, A, FAR, 4000, 80)) == pairing.HOST
    assert why(Sock(1, 1, A, parse_address("10.0.3.5"), 4000, 80)) == pairing.UNREACHED
    assert why(Sock(1, 1, LOOP, B, 4000, 80)) == pairing.FOREIGN
    assert why(Sock(1, 1, LOOP, LOOP, 4000, 4000)) == pairing.ITSELF
    assert why(Sock(1, 1, A, A, 4000, 80)) == pairing.TRANSLATED
    assert why(Sock(1, 1, A, B, 4000, 80), Sock(2, 1, A, B, 4000, 80)) == pairing.TWICE


def test_a_pod_that_two_namespaces_claim_is_nowhere() -> None:
    places = {**PLACES, 3: Place(PodKey("shop", "b"), (B,))}
    assert pair(both(), places).alone == {10: pairing.TWICE, 11: pairing.FOREIGN}


def test_sockets_of_no_pod_are_left_out() -> None:
    assert pair(both(7, 8), PLACES) == ((), {})
    assert pair(both(1, 8), PLACES).alone == {10: pairing.TRANSLATED}
