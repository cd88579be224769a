# SPDX-License-Identifier: Apache-2.0
"""Who holds an address and port."""

from __future__ import annotations

from netaccel.compile.claims import Claims
from netaccel.model.address import parse_address
from netaccel.model.service import ServiceKey
from netaccel.records import FrontendKey

X, Y = (FrontendKey(parse_address("192.0.2.1"), port, 6) for port in (80, 81))
A, B, C = (ServiceKey("default", name) for name in "abc")


def test_the_older_service_holds_it_whoever_came_first() -> None:
    claims = Claims()
    assert claims.replace(A, 2.0, {X}) == set()
    assert claims.replace(B, 1.0, {X}) == {A}
    assert claims.holder(X) == B


def test_a_younger_one_changes_nothing_for_others() -> None:
    claims = Claims()
    claims.replace(A, 1.0, {X})
    assert claims.replace(B, 2.0, {X}) == set()
    assert claims.holder(X) == A


def test_of_one_age_namespace_and_name_decide() -> None:
    claims = Claims()
    for key in (C, B, A):
        claims.replace(key, 1.0, {X})
    assert claims.holder(X) == A


def test_when_the_holder_leaves_the_next_one_has_it_and_all_are_told() -> None:
    """The third one too: its condition names the holder."""
    claims = Claims()
    for created, key in enumerate((A, B, C)):
        claims.replace(key, created, {X, Y})
    assert claims.replace(A, 0, {Y}) == {B, C}
    assert (claims.holder(X), claims.holder(Y)) == (B, A)
    assert claims.replace(A, 0, ()) == {B, C}
    assert claims.holder(Y) == B


def test_a_service_made_anew_loses_its_age() -> None:
    claims = Claims()
    claims.replace(A, 1.0, {X})
    claims.replace(B, 2.0, {X})
    assert claims.replace(A, 3.0, {X}) == {B}
    assert claims.holder(X) == B


def test_when_the_last_one_leaves_nobody_holds_it() -> None:
    claims = Claims()
    claims.replace(A, 1.0, {X})
    claims.replace(A, 1.0, ())
    assert claims.holder(X) is None


def test_the_same_claims_again_affect_nobody() -> None:
    claims = Claims()
    claims.replace(A, 2.0, {X})
    claims.replace(B, 1.0, {X})
    assert claims.replace(A, 2.0, {X}) == set()
