# SPDX-License-Identifier: Apache-2.0
"""Who we are to the API server: read, refused in one clear line, and followed as it changes."""

from __future__ import annotations

import base64
import datetime
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from netaccel.apiserver import credentials, kubeconfig, light
from netaccel.apiserver.credentials import Credentials
from netaccel.cluster.pki import Identity, Pki
from netaccel.errors import ApiUnreachableError, ConfigError

SERVER = "https://192.168.0.10:6443"
EXEC_API = "client.authentication.k8s.io/v1"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def content(user: dict[str, Any] | None = None, **cluster: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": SERVER, **cluster}}],
        "users": [{"name": "u", "user": user or {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(text: object, name: str = "kubeconfig") -> Path:
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else yaml.safe_dump(text))
        return path

    return write


def found(*paths: Path) -> Credentials:
    return credentials.find(os.pathsep.join(map(str, paths)), {})


def data(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


# ---------------------------------------------------------------- what is wrong, in a line


def test_no_such_kubeconfig(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kubeconfig .*/none: no such file: give one that is there"):
        found(tmp_path / "none")


def test_no_kubeconfig_outside_of_a_pod() -> None:
    with pytest.raises(ConfigError, match=r"give a kubeconfig \(KUBECONFIG\), or run in a pod"):
        credentials.find(None, {})


def test_not_yaml(written: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"kubeconfig line 2: not YAML"):
        found(written("a: b\n{"))


def test_no_current_context(written: Callable[..., Path]) -> None:
    del (some := content())["current-context"]
    with pytest.raises(ConfigError, match="current-context is not set: `kubectl config use-context NAME`"):
        found(written(some))


WRONG: list[tuple[str, Callable[[dict[str, Any]], object], str]] = [
    ("context", lambda c: c.update({"current-context": "y"}), "there is no context 'y'"),
    ("cluster", lambda c: c["clusters"].clear(), "there is no cluster 'c'"),
    ("user", lambda c: c["users"].clear(), "there is no user 'u'"),
    ("server", lambda c: c["clusters"][0]["cluster"].pop("server"), "cluster c has no server"),
    ("no list", lambda c: c.update(users="u"), "users is no list"),
    ("empty", lambda c: c["clusters"][0].pop("cluster"), "cluster c is empty"),
    (
        "ca",
        lambda c: c["clusters"][0]["cluster"].update({"certificate-authority": "/none/ca"}),
        "certificate-authority /none/ca: no such file",
    ),
    (
        "token file",
        lambda c: c["users"][0]["user"].update(tokenFile="/none/token"),
        "tokenFile /none/token: no such file",
    ),
    (
        "plugin",
        lambda c: c["users"][0]["user"].update(exec={"apiVersion": EXEC_API, "command": "no-such-plugin"}),
        "user u: exec plugin no-such-plugin is not there: install it",
    ),
    ("no command", lambda c: c["users"][0]["user"].update(exec={}), "user u: exec has no command"),
]


@pytest.mark.parametrize(("change", "line"), [one[1:] for one in WRONG], ids=[one[0] for one in WRONG])
def test_a_mistake_is_one_line(
    written: Callable[..., Path], change: Callable[[dict[str, Any]], object], line: str
) -> None:
    change(some := content())
    with pytest.raises(ConfigError, match=line) as caught:
        found(written(some))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[1]", "text"])
def test_a_kubeconfig_that_is_no_mapping(written: Callable[..., Path], text: str) -> None:
    with pytest.raises(ConfigError, match="give a mapping"):
        found(written(text))


async def test_a_ca_that_is_none(written: Callable[..., Path]) -> None:
    path = written(content(**{"certificate-authority-data": base64.b64encode(b"none").decode()}))
    with pytest.raises(ConfigError, match="its certificates can't be used"):
        await found(path).current()


async def test_a_plugin_that_fails_may_do_better_later(written: Callable[..., Path], pki: Pki) -> None:
    plugin = {"apiVersion": EXEC_API, "command": "sh", "args": ["-c", "echo no way >&2; exit 3"]}
    user = {"exec": {**plugin, "interactiveMode": "Never"}}
    path = written(content(user, **{"certificate-authority-data": data(pki.ca)}))
    with pytest.raises(ApiUnreachableError, match=r"exec plugin sh: .*returned 3. no way: run it by hand"):
        await found(path).current()


# ---------------------------------------------------------------------- what is read


async def test_a_token_and_a_server_name(written: Callable[..., Path], pki: Pki) -> None:
    cluster = {"certificate-authority-data": data(pki.ca), "tls-server-name": "k8s"}
    access = await found(written(content({"token": "abc"}, **cluster))).current()
    assert (access.url, access.server_name, access.authorization) == (SERVER, "k8s", "Bearer abc")
    assert access.tls is not None
    assert access.tls.check_hostname
    assert access.tls.verify_mode is ssl.CERT_REQUIRED


async def test_a_client_certificate_inside_the_file_leaves_no_file_behind(
    written: Callable[..., Path], pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty := tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(empty))
    pair = pki.pair("reader", Identity("reader"))
    user = {"client-certificate-data": data(pair.certificate), "client-key-data": data(pair.key)}
    some = found(written(content(user, **{"certificate-authority-data": data(pki.ca)})))
    for _ in range(2):  # a second time: nothing hangs on files that are gone
        access = await some.current()
        assert access.tls is not None
        assert access.authorization == ""
        assert list(empty.iterdir()) == []
        assert await some.renew(access) is None  # nothing changed: nothing new


async def test_a_kubeconfig_needs_a_folder_for_temporary_files(
    written: Callable[..., Path], pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = found(written(content({"token": "t"}, **{"certificate-authority-data": data(pki.ca)})))
    monkeypatch.setattr("tempfile.tempdir", "/none")
    with pytest.raises(ConfigError, match=r"no folder for temporary files .*: make one writable"):
        await some.current()


async def test_several_files_are_merged_as_kubectl_does(
    written: Callable[..., Path], pki: Pki, tmp_path: Path
) -> None:
    first = {"current-context": "x", "users": [{"name": "u", "user": {"token": "first"}}]}
    second = content({"token": "second"}, **{"certificate-authority-data": data(pki.ca)})
    second["current-context"] = "other"
    paths = (tmp_path / "missing", written(first, "a"), written(second, "b"))
    access = await found(*paths).current()
    assert (access.url, access.authorization) == (SERVER, "Bearer first")


async def test_relative_files_are_beside_their_kubeconfig(
    written: Callable[..., Path], pki: Pki, tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").write_bytes(pki.ca.read_bytes())
    (tmp_path / "token").write_text("abc\n")
    some = content({"tokenFile": "token"}, **{"certificate-authority": "ca.crt"})
    assert (await found(written(some)).current()).authorization == "Bearer abc"


async def test_verification_is_left_out_only_where_the_kubeconfig_says_so(
    written: Callable[..., Path],
) -> None:
    access = await found(written(content({"token": "t"}, **{"insecure-skip-tls-verify": True}))).current()
    assert access.tls is not None
    assert access.tls.verify_mode is ssl.CERT_NONE


async def test_a_pod_has_its_service_account(
    tmp_path: Path, pki: Pki, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/none")  # its root may be read-only
    (tmp_path / "token").write_text("abc\n")
    (tmp_path / "ca.crt").write_bytes(pki.ca.read_bytes())
    environment = {"KUBERNETES_SERVICE_HOST": "fd00:10:96::1", "KUBERNETES_SERVICE_PORT": "443"}
    some = credentials.find(None, environment, tmp_path)
    assert some.in_pod
    access = await some.current()
    assert (access.url, access.authorization) == ("https://[fd00:10:96::1]:443", "Bearer abc")


def test_a_pod_without_a_service_accounts_token(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"token: no such file.*automountServiceAccountToken"):
        credentials.find(None, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}, tmp_path)


# --------------------------------------------------------------------- what changes


@pytest.fixture
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "LOOK", 0.0)


@pytest.mark.usefixtures("always_look")
async def test_a_token_that_is_rotated_is_followed(tmp_path: Path, pki: Pki) -> None:
    (tmp_path / "token").write_text("first")
    (tmp_path / "ca.crt").write_bytes(pki.ca.read_bytes())
    environment = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    some = credentials.find(None, environment, tmp_path)
    first = await some.current()
    assert await some.current() is first
    (tmp_path / "token.new").write_text("second")
    (tmp_path / "token.new").rename(tmp_path / "token")
    assert (await some.current()).authorization == "Bearer second"


@pytest.mark.usefixtures("always_look")
async def test_a_kubeconfig_that_is_half_written_changes_nothing(
    written: Callable[..., Path], pki: Pki, caplog: pytest.LogCaptureFixture
) -> None:
    whole = content({"token": "first"}, **{"certificate-authority-data": data(pki.ca)})
    some = found(path := written(whole))
    first = await some.current()
    path.write_text(yaml.safe_dump(whole)[:40])
    assert await some.current() is first
    assert "the old ones are used" in caplog.text
    whole["users"][0]["user"]["token"] = "second"
    written(whole)
    assert (await some.current()).authorization == "Bearer second"


async def test_what_a_server_refuses_is_read_again_once_for_all_who_ask(
    written: Callable[..., Path], pki: Pki
) -> None:
    whole = content({"token": "first"}, **{"certificate-authority-data": data(pki.ca)})
    some = found(written(whole))
    refused = await some.current()
    assert await some.renew(refused) is None
    refused = await some.current()
    whole["users"][0]["user"]["token"] = "second"
    written(whole)
    renewed = await some.renew(refused)
    assert renewed is not None
    assert renewed.authorization == "Bearer second"
    assert await some.renew(refused) is renewed


@pytest.mark.usefixtures("always_look")
@pytest.mark.parametrize(("minutes", "runs"), [(60, 1), (2, 3)], ids=["lives", "ends soon"])
async def test_a_plugin_is_run_again_before_its_token_ends(
    written: Callable[..., Path], pki: Pki, tmp_path: Path, minutes: int, runs: int
) -> None:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=minutes)
    status = {"token": "abc", "expirationTimestamp": end.strftime("%Y-%m-%dT%H:%M:%SZ")}
    answer = json.dumps({"apiVersion": EXEC_API, "kind": "ExecCredential", "status": status})
    script = f"echo run >> {tmp_path}/runs; echo '{answer}'"
    plugin = {"apiVersion": EXEC_API, "command": "sh", "args": ["-c", script], "interactiveMode": "Never"}
    some = found(written(content({"exec": plugin}, **{"certificate-authority-data": data(pki.ca)})))
    for _ in range(3):
        assert (await some.current()).authorization == "Bearer abc"
    assert (tmp_path / "runs").read_text().count("run") == runs


def test_a_kubeconfig_names_all_files_that_it_is_made_of(
    written: Callable[..., Path], tmp_path: Path
) -> None:
    for name in ("ca", "token"):
        (tmp_path / name).touch()
    path = written(content({"tokenFile": "token"}, **{"certificate-authority": "ca"}))
    read = kubeconfig.read(str(path))
    assert set(read.files) == {path, tmp_path / "ca", tmp_path / "token"}


# --------------------------------------------------------------- the library behind it


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_loader_comes_without_the_models_and_leaves_no_stand_in_behind() -> None:
    code = (
        "import sys; from netaccel.apiserver.light import library; found = library();"
        "left = [one for one in sys.modules if one.startswith('kubernetes_asyncio')];"
        "print(left, found.kube_config.__name__)"
    )
    assert python(code).strip() == "[] kubernetes_asyncio.config.kube_config"


def test_who_imports_the_package_afterwards_gets_the_real_one() -> None:
    code = (
        "from netaccel.apiserver.light import library; library();"
        "import kubernetes_asyncio.client as client; print(client.CoreV1Api.__name__)"
    )
    assert python(code).strip() == "CoreV1Api"


def test_where_the_package_is_of_another_shape_it_is_imported_whole(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def changed() -> light.Library:
        raise ImportError("no module named configuration")

    whole = light.Library(None, None, None, Exception)
    monkeypatch.setattr(light, "_alone", changed)
    monkeypatch.setattr(light, "_gather", lambda: whole)
    assert light.library.__wrapped__() is whole
    assert "can't be loaded without its models" in caplog.text
