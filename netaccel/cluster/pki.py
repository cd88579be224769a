# SPDX-License-Identifier: Apache-2.0
"""A cluster's certificate authority: certificates by user, the key of service accounts, tokens.

Kubernetes reads a client's name from the subject's common name and its groups from the organisations
(kubernetes.io, "Authenticating", X.509 client certificates).
"""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = timedelta(days=365)
_SKEW = timedelta(minutes=5)
_ES256_BYTES = 32


@dataclass(frozen=True)
class Identity:
    """Who a certificate is for. ``names``: addresses and DNS names that it may serve."""

    user: str
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


ADMIN = Identity("admin", ("system:masters",))
CONTROLLER_MANAGER = Identity("system:kube-controller-manager")
SCHEDULER = Identity("system:kube-scheduler")
KUBE_PROXY = Identity("system:kube-proxy")


def node(name: str, addresses: Sequence[str] = ()) -> Identity:
    """A kubelet: the Node authorizer and NodeRestriction know it by this name and group."""
    return Identity(f"system:node:{name}", ("system:nodes",), (name, *addresses))


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both PEM; the key's file is its owner's alone."""

    certificate: Path
    key: Path


class Pki:
    """The files of one cluster, under ``folder``. What is there already is kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._ca_key = _load_or_make(self.ca_key)
        if not self.ca.exists():
            _write(self.ca, _pem(self._authority()))
        self._ca = x509.load_pem_x509_certificate(self.ca.read_bytes())
        self._token_key = _load_or_make(self.token_key)
        if not self.token_public_key.exists():
            public = self._token_key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            _write(self.token_public_key, public)

    @property
    def ca(self) -> Path:
        """The authority's certificate."""
        return self.folder / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """The authority's key: the controller manager signs with it."""
        return self.folder / "ca.key"

    @property
    def token_key(self) -> Path:
        """The key that signs service accounts' tokens."""
        return self.folder / "sa.key"

    @property
    def token_public_key(self) -> Path:
        """The key that they are checked with."""
        return self.folder / "sa.pub"

    def pair(self, name: str, identity: Identity, life: timedelta = _LIFE) -> Pair:
        """Issue a certificate for serving and asking, as ``name``.crt and ``name``.key; once."""
        made = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        if not made.certificate.exists():
            key = _load_or_make(made.key)
            _write(made.certificate, _pem(self._issue(identity, key.public_key(), life)))
        return made

    def token(self, namespace: str, name: str, uid: str, seconds: float, issuer: str) -> str:
        """Sign a service account's token (a JWT, ES256) that ends in ``seconds``; below 0 it has ended.

        The API server itself issues none for less than ten minutes.
        """
        now = time.time()
        account = {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}}
        claims = {
            "iss": issuer,
            "sub": f"system:serviceaccount:{namespace}:{name}",
            "aud": [issuer],
            "iat": int(now + min(seconds, 0)) - 1,
            "nbf": int(now + min(seconds, 0)) - 1,
            "exp": int(now + seconds),
            "kubernetes.io": account,
        }
        return _sign(self._token_key, claims)

    def _authority(self) -> x509.Certificate:
        name = _subject(Identity("kubernetes"))
        builder = _builder(self._ca_key.public_key(), _LIFE * 10).subject_name(name).issuer_name(name)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        usage = _usage(signs_certificates=True)
        return builder.add_extension(usage, critical=True).sign(self._ca_key, hashes.SHA256())

    def _issue(self, identity: Identity, key: ec.EllipticCurvePublicKey, life: timedelta) -> x509.Certificate:
        builder = _builder(key, life).subject_name(_subject(identity)).issuer_name(self._ca.subject)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        if identity.names:
            names = x509.SubjectAlternativeName([_general_name(name) for name in identity.names])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._ca_key, hashes.SHA256())


def _builder(key: ec.EllipticCurvePublicKey, life: timedelta) -> x509.CertificateBuilder:
    """Begin a certificate that is valid now, on a clock that is a little late too."""
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().public_key(key).serial_number(x509.random_serial_number())
    return builder.not_valid_before(min(now, now + life) - _SKEW).not_valid_after(now + life)


def _subject(identity: Identity) -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in identity.groups]
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, identity.user)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not signs_certificates,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _load_or_make(path: Path) -> ec.EllipticCurvePrivateKey:
    if path.exists():
        loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{path}: no key of an elliptic curve")
        return loaded
    key = ec.generate_private_key(ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    _write(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()), 0o600)
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def _sign(key: ec.EllipticCurvePrivateKey, claims: Mapping[str, object]) -> str:
    """Build a compact JWS (RFC 7515); ES256 is the two numbers of 32 bytes each, big endian (RFC 7518)."""
    head = _base64(json.dumps({"alg": "ES256", "typ": "JWT"}).encode())
    text = f"{head}.{_base64(json.dumps(claims).encode())}"
    r, s = utils.decode_dss_signature(key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    signature = r.to_bytes(_ES256_BYTES, "big") + s.to_bytes(_ES256_BYTES, "big")
    return f"{text}.{_base64(signature)}"


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
