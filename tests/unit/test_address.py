"""Addresses and CIDRs as the Kubernetes API accepts them."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netaccel.model import address


@given(st.ip_addresses())
def test_text_and_back(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    found = address.parse_address(str(ip))
    assert len(found) == 16
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else ip
    assert address.is_ipv4(found) == (mapped is not None)
    assert ipaddress.ip_address(address.text(found)) == (mapped or ip)


@pytest.mark.parametrize("text", ["010.0.0.1", "10.000.000.001", "::ffff:10.0.0.1", "::FFFF:0a00:1"])
def test_forms_of_one_address(text: str) -> None:
    assert address.text(address.parse_address(text)) == "10.0.0.1"


@pytest.mark.parametrize(
    "text",
    ["", "10.0.0", "10.0.0.256", "10.0.0.1 ", "a.b.c.d", "::1%eth0", "10.0.0.1\0", "1.2.3.-4", "١.2.3.4"],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        address.parse_address(text)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("10.1.2.3/8", "10.0.0.0/8"),
        (" 10.1.2.3/08\t", "10.0.0.0/8"),
        ("010.1.2.3/32", "10.1.2.3/32"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("2001:db8:ffff::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_cidrs_are_masked_and_normalised(text: str, normal: str) -> None:
    assert address.cidr_text(address.parse_cidr(text)) == normal


@pytest.mark.parametrize(
    "text", ["10.0.0.0", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "::/129", "/8", "10/8", "a/²"]
)
def test_what_is_no_cidr(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        address.parse_cidr(text)


def test_family_and_endpoint_text() -> None:
    four, six = address.parse_address("10.0.0.1"), address.parse_address("fd00::1")
    assert (address.family(four), address.family(six)) == (socket.AF_INET, socket.AF_INET6)
    assert address.endpoint_text(four, 80) == "10.0.0.1:80"
    assert address.endpoint_text(six, 80) == "[fd00::1]:80"
