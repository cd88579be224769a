# SPDX-License-Identifier: Apache-2.0
"""Who we are to the API server, and where it is: a kubeconfig, or the service account of a pod.

kubernetes_asyncio reads them (tokens, client certificates, exec plugins, OIDC); what changes while the
agent runs is followed here: a file that was rotated, a plugin's token before it expires, and whatever the
server stopped to accept. Proxies of the environment are not used: an agent must reach its API server by
itself, or by the kubeconfig's ``proxy-url``.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import os
import ssl
import tempfile
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netaccel.apiserver import kubeconfig
from netaccel.apiserver.light import library
from netaccel.errors import ApiUnreachableError, ConfigError

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LOOK = 60.0
"""Seconds between looks at the files. A bound token is rotated at 80 % of its life of an hour or more."""
_PLUGIN_PATIENCE = 30.0
_ITS_ERRORS = (OSError, LookupError, TypeError, ValueError, AttributeError, AssertionError)
"""What the library lets through where a file isn't as it expects."""
_BEFORE_EXPIRY = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Access:
    """All that a connection needs. ``server_name``: "" where the certificate is for the URL's host.

    ``authorization``: the header's value, "" with client certificates. ``tls``: None for http.
    """

    url: str
    server_name: str
    authorization: str
    tls: ssl.SSLContext | None
    proxy: str | None = None


class Credentials:
    """Where credentials come from, and what was last read. Make it with :func:`find`."""

    def __init__(
        self, config: kubeconfig.Kubeconfig | None, environment: Mapping[str, str], account: Path
    ) -> None:
        self._config = config
        self._environment = environment
        self._account = account
        self._access: Access | None = None
        self._expires: datetime.datetime | None = None
        self._seen: tuple[object, ...] = ()
        self._look_at = 0.0
        self._lock = asyncio.Lock()

    @property
    def origin(self) -> str:
        """Where they are from, for messages."""
        return f"kubeconfig {self._config.paths}" if self._config else "the pod's service account"

    @property
    def in_pod(self) -> bool:
        """Whether they are a pod's, whose way to the API server is a Service."""
        return self._config is None

    async def current(self) -> Access:
        """What to use now; read again where files changed or a plugin's token is about to expire.

        Raises ConfigError for what a person must mend, ApiUnreachableError where a plugin or an identity
        provider gives nothing now.
        """
        async with self._lock:
            if self._access is None:
                return await self._read()
            now = time.monotonic()
            if now < self._look_at:
                return self._access
            self._look_at = now + LOOK
            if self._seen == self._fingerprint() and not self._about_to_expire():
                return self._access
            try:
                return await self._read()
            except (ConfigError, ApiUnreachableError) as error:
                # Half written, most likely. What was read serves until the server refuses it.
                log.warning("credentials can't be read again, the old ones are used: %s", error)
                return self._access

    async def renew(self, refused: Access) -> Access | None:
        """Read again because the server answered 401; None where nothing newer is to be had.

        Raises as :meth:`current`.
        """
        async with self._lock:
            if self._access is refused:
                await self._read()
            new = self._access
        if new is None or (new.authorization == refused.authorization and new.tls is refused.tls):
            return None
        return new

    def _about_to_expire(self) -> bool:
        return self._expires is not None and (
            self._expires - _BEFORE_EXPIRY <= datetime.datetime.now(datetime.UTC)
        )

    def _fingerprint(self) -> tuple[object, ...]:
        """What changes when one of the files does; links are followed (a mounted secret is one)."""
        files = self._config.files if self._config else (self._account / "token", self._account / "ca.crt")
        return tuple(_signature(file) for file in files)

    async def _read(self) -> Access:
        self._look_at = time.monotonic() + LOOK
        seen = self._fingerprint()
        with self._room() as folder:
            loaded = await self._load(folder)
            if self._access is not None and seen == self._seen and not self._is_dynamic():
                tls = self._access.tls  # the same files make the same certificates
            else:
                tls = _tls(loaded, self.origin)
        _forget_files()
        authorization = " ".join(loaded.api_key.get("BearerToken", "").split())
        name = loaded.tls_server_name or ""
        self._access = Access(loaded.host.rstrip("/"), name, authorization, tls, loaded.proxy)
        self._seen = seen
        return self._access

    def _room(self) -> AbstractContextManager[str]:
        """A folder for certificates that stand inside a kubeconfig; a pod's stand alone."""
        if self._config is None:
            return contextlib.nullcontext("")
        try:
            return tempfile.TemporaryDirectory(prefix="netaccel-")
        except OSError as error:
            text = (
                f"no folder for temporary files ({error.strerror}): make one writable, or name it in TMPDIR"
            )
            raise ConfigError(f"{self.origin}: {text}") from error

    def _is_dynamic(self) -> bool:
        """Whether a plugin may give other certificates although no file changed."""
        return self._config is not None and bool(self._config.plugin)

    async def _load(self, folder: str) -> Any:
        """Let the library read them; temporary files of inline certificates go into ``folder``."""
        known = library()
        found = known.configuration()
        found.host = ""
        try:
            if self._config is None:
                self._load_pod(found)
                return found
            async with asyncio.timeout(_PLUGIN_PATIENCE):
                loader = await known.kube_config.load_kube_config(
                    config_file=self._config.paths,
                    context=self._config.context,
                    client_configuration=found,
                    persist_config=False,  # the file is a person's; it may be read-only
                    temp_file_path=folder,
                )
        except TimeoutError as error:
            raise ApiUnreachableError(
                f"{self.origin}: {self._plugin()} gave nothing in {_PLUGIN_PATIENCE:.0f} s: run it by hand"
            ) from error
        except (known.error, *_ITS_ERRORS) as error:
            raise self._failure(error) from error
        self._expires = getattr(loader, "exec_plugin_expiry", None)
        if self._config.token_file is not None:
            # kubectl prefers the file to a token beside it, the library does not.
            found.api_key["BearerToken"] = f"Bearer {self._config.token_file.read_text()}"
        return found

    def _load_pod(self, found: Any) -> None:
        known = library()
        known.incluster_config.InClusterConfigLoader(
            token_filename=str(self._account / "token"),
            cert_filename=str(self._account / "ca.crt"),
            environ=dict(self._environment),
            try_refresh_token=False,
        ).load_and_set(found)

    def _failure(self, error: Exception) -> ConfigError | ApiUnreachableError:
        """The library's error in one line. What a plugin or a provider says may be other in a minute."""
        text = " ".join(str(error).split()) or type(error).__name__
        if self._config is not None and self._config.plugin:
            return ApiUnreachableError(f"{self.origin}: {self._plugin()}: {text}: run it by hand to see why")
        if isinstance(error, OSError):
            return ConfigError(f"{self.origin}: {text}: make it readable")
        return ConfigError(f"{self.origin}: {text}: correct it")

    def _plugin(self) -> str:
        assert self._config is not None
        return f"user {self._config.user}: exec plugin {self._config.plugin or '(none)'}"


def find(
    paths: str | None, environment: Mapping[str, str] | None = None, account: Path = SERVICE_ACCOUNT
) -> Credentials:
    """Choose where credentials come from, and check what can be checked without asking anybody.

    ``paths``: kubeconfigs with colons between; None: the pod's service account in ``account``. Raises
    ConfigError.
    """
    environment = os.environ if environment is None else environment
    if paths:
        return Credentials(kubeconfig.read(paths), environment, account)
    if not environment.get("KUBERNETES_SERVICE_HOST"):
        raise ConfigError("no API server to serve from: give a kubeconfig (KUBECONFIG), or run in a pod")
    for name in ("token", "ca.crt"):
        if not (account / name).is_file():
            raise ConfigError(
                f"{account / name}: no such file: let the pod have its service account's token"
                " (automountServiceAccountToken)"
            )
    return Credentials(None, environment, account)


def _tls(loaded: Any, origin: str) -> ssl.SSLContext | None:
    """The context for https, with the client's certificate; None for http."""
    if not loaded.host.startswith("https:"):
        return None
    try:
        context = ssl.create_default_context(cafile=loaded.ssl_ca_cert)
        if loaded.cert_file:
            context.load_cert_chain(loaded.cert_file, loaded.key_file)
    except (OSError, ValueError) as error:
        text = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise ConfigError(f"{origin}: its certificates can't be used: {text}: correct them") from error
    # Python 3.13 wants extensions that many clusters' CAs lack and no other client of theirs asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not loaded.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _forget_files() -> None:
    """The library remembers the names of its temporary files, which are gone with their folder."""
    remembered = getattr(library().kube_config, "_temp_files", None)
    if isinstance(remembered, dict):
        remembered.clear()


def _signature(file: Path) -> tuple[int, int, int] | None:
    try:
        info = file.stat()
    except OSError:
        return None
    return (info.st_ino, info.st_size, info.st_mtime_ns)
