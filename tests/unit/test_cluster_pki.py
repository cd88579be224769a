# SPDX-License-Identifier: Apache-2.0
"""Certificates and kubeconfigs of a cluster of our own."""

from __future__ import annotations

import base64
import json
import ssl
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID

from netaccel.cluster import kubeconfig, pki
from netaccel.cluster.kubeconfig import Access
from netaccel.cluster.pki import Identity, Pki


@pytest.fixture
def authority(tmp_path: Path) -> Pki:
    return Pki(tmp_path / "pki")


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def attributes(made: x509.Certificate, kind: x509.ObjectIdentifier) -> list[str | bytes]:
    return [attribute.value for attribute in made.subject.get_attributes_for_oid(kind)]


def claims(token: str) -> dict[str, object]:
    middle = token.split(".")[1]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return found


def test_a_kubelet_is_a_node_of_its_name_and_serves_its_addresses(authority: Pki) -> None:
    made = certificate(authority.pair("n1", pki.node("n1", ["172.30.0.11", "fd00:30::11"])).certificate)
    assert attributes(made, NameOID.COMMON_NAME) == ["system:node:n1"]
    assert attributes(made, NameOID.ORGANIZATION_NAME) == ["system:nodes"]
    names = made.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert names.get_values_for_type(x509.DNSName) == ["n1"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["172.30.0.11", "fd00:30::11"]


def test_what_it_issues_is_signed_by_it_and_is_no_authority_itself(authority: Pki) -> None:
    made, ca = certificate(authority.pair("a", Identity("a")).certificate), certificate(authority.ca)
    made.verify_directly_issued_by(ca)
    with pytest.raises(x509.ExtensionNotFound):
        made.extensions.get_extension_for_class(x509.BasicConstraints)
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_certificate_holds_now_and_on_a_clock_that_is_a_minute_late(authority: Pki) -> None:
    made = certificate(authority.pair("a", Identity("a")).certificate)
    now = datetime.now(UTC)
    assert made.not_valid_before_utc < now - timedelta(minutes=1)
    assert now + timedelta(days=300) < made.not_valid_after_utc


def test_one_with_a_life_below_zero_has_ended(authority: Pki) -> None:
    made = certificate(authority.pair("late", Identity("late"), life=timedelta(minutes=-1)).certificate)
    assert made.not_valid_before_utc < made.not_valid_after_utc < datetime.now(UTC)


def test_openssl_takes_the_pair(authority: Pki) -> None:
    pair = authority.pair("a", Identity("a"))
    ssl.create_default_context(cafile=str(authority.ca)).load_cert_chain(pair.certificate, pair.key)


def test_what_is_there_stays(authority: Pki) -> None:
    pair = authority.pair("a", Identity("a"))
    before = [path.read_bytes() for path in (authority.ca, pair.certificate, authority.token_key)]
    again = Pki(authority.folder)
    pair = again.pair("a", Identity("a"))
    assert [path.read_bytes() for path in (again.ca, pair.certificate, again.token_key)] == before


def test_keys_are_their_owners_alone(authority: Pki) -> None:
    pair = authority.pair("a", Identity("a"))
    for key in (authority.ca_key, authority.token_key, pair.key):
        assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_token_says_whose_it_is_and_when_it_ends(authority: Pki) -> None:
    said = claims(authority.token("netaccel", "agent", "uid-1", 600, "https://issuer"))
    assert said["sub"] == "system:serviceaccount:netaccel:agent"
    assert (said["iss"], said["aud"]) == ("https://issuer", ["https://issuer"])
    assert said["kubernetes.io"] == {
        "namespace": "netaccel",
        "serviceaccount": {"name": "agent", "uid": "uid-1"},
    }
    assert said["nbf"] <= time.time() < said["exp"]


def test_an_expired_token_was_valid_before(authority: Pki) -> None:
    said = claims(authority.token("netaccel", "agent", "uid-1", -60, "https://issuer"))
    assert said["nbf"] < said["exp"] < time.time()


def test_a_kubeconfig_holds_all_that_it_needs(authority: Pki, tmp_path: Path) -> None:
    pair = authority.pair("a", Identity("a"))
    path = tmp_path / "kubeconfigs/a"
    kubeconfig.write(path, Access("https://127.0.0.1:6443", authority.ca, pair), namespace="netaccel")
    read = yaml.safe_load(path.read_text())
    cluster, user = read["clusters"][0]["cluster"], read["users"][0]["user"]
    assert cluster["server"] == "https://127.0.0.1:6443"
    assert base64.b64decode(cluster["certificate-authority-data"]) == authority.ca.read_bytes()
    assert base64.b64decode(user["client-certificate-data"]) == pair.certificate.read_bytes()
    assert base64.b64decode(user["client-key-data"]) == pair.key.read_bytes()
    assert read["contexts"][0]["context"]["namespace"] == "netaccel"
    assert read["current-context"] == read["contexts"][0]["name"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_kubeconfig_with_a_token_has_no_certificate(authority: Pki) -> None:
    read = kubeconfig.document(Access("https://127.0.0.1:6443", authority.ca, token="abc"))
    assert read["users"][0]["user"] == {"token": "abc"}
