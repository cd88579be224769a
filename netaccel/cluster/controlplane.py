# SPDX-License-Identifier: Apache-2.0
"""A control plane: etcd and the API server, and on request the controller manager and the scheduler.

Measured: ready 4 to 5 s after start; etcd takes 98 MB, the API server 271, the controller manager 124, the
scheduler 73.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from netaccel.cluster import arguments, ask, audit, kubeconfig, pki
from netaccel.cluster.arguments import LOOPBACK, Keys, Options
from netaccel.cluster.binaries import Binaries
from netaccel.cluster.kubeconfig import Access
from netaccel.cluster.pki import Identity, Pki
from netaccel.cluster.ports import free_ports
from netaccel.cluster.process import Child, Program, environment
from netaccel.errors import LabError

_TRIES = 3
_READY_SECONDS = 120.0  # seconds on an idle machine; much may run beside it
_FIRST_SERVICE_ADDRESS = 1
_TAKEN = "address already in use"


class ControlPlane:
    """One cluster's control plane; all its files lie in ``folder``, its users' kubeconfigs too."""

    def __init__(self, folder: Path, binaries: Binaries, options: Options | None = None) -> None:
        self.folder = folder
        self.options = options or Options()
        self.pki = Pki(folder / "pki")
        self._binaries = binaries
        self._children: dict[str, Child] = {}
        self._ports = self.options.ports or free_ports(self.options.port)

    @property
    def server(self) -> str:
        """The API server's address, as kubeconfigs have it."""
        address = self.options.addresses[0]
        host = f"[{address}]" if ":" in address else address
        return f"https://{host}:{self._ports.api}"

    @property
    def port(self) -> int:
        """The API server's port; it keeps it when it is started again."""
        return self._ports.api

    @property
    def admin(self) -> Path:
        """A kubeconfig that may do everything."""
        return self.kubeconfig(pki.ADMIN)

    @property
    def audit_log(self) -> Path:
        """What the API server was asked: lines of JSON, `audit` reads them. Needs the option."""
        return self.folder / "audit.log"

    @property
    def logs(self) -> Path:
        """The folder of what the programs said."""
        return self.folder / "logs"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it all and wait until it is ready; where a port was taken meanwhile, on others.

        Raises LabError; nothing runs then.
        """
        for attempt in range(_TRIES):
            try:
                self._start_etcd()
                self.start_api_server()
                self._start_managers()
            except LabError:
                taken = any(_TAKEN in child.said() for child in self._children.values())
                self.stop()
                if self.options.ports or not taken or attempt == _TRIES - 1:
                    raise
                self._ports = free_ports(self.options.port)
            except BaseException:
                self.stop()
                raise
            else:
                return

    def stop(self) -> None:
        """Stop it all; again is allowed. Its files stay."""
        children = [self._children.pop(name) for name in reversed(list(self._children))]
        for child in children[:-1]:
            child.kill()  # what they still would write concerns nobody
        for child in children[-1:]:
            child.stop()

    def start_api_server(self) -> None:
        """Start the API server, on the port that it had, and wait until it is ready. Raises LabError."""
        policy = self.folder / "audit-policy.yaml"
        policy.write_text(audit.POLICY, encoding="utf-8")
        logged = (policy, self.audit_log) if self.options.audit else None
        line = arguments.api_server(self.options, self._keys(), self._ports, logged)
        self._start("kube-apiserver", line).wait_until(self._has_come_up, _READY_SECONDS)

    def stop_api_server(self) -> None:
        """Ask the API server to end and wait for that: watches are closed in order."""
        self._child("kube-apiserver").stop()

    def kill_api_server(self) -> None:
        """End the API server between two instructions: connections are reset."""
        self._child("kube-apiserver").kill()

    def freeze_api_server(self) -> None:
        """Let the API server do nothing at all: connections stay open and silent."""
        self._child("kube-apiserver").freeze()

    def thaw_api_server(self) -> None:
        """Let it go on."""
        self._child("kube-apiserver").signal(signal.SIGCONT)

    def is_ready(self) -> bool:
        """Whether the API server says so (``/readyz``, which it tells anybody)."""
        where = ask.Where(self.options.addresses[0], self._ports.api, self._namespace, self.pki.ca)
        try:
            return ask.get(where, "/readyz")[0] == http.client.OK
        except (OSError, http.client.HTTPException):
            return False

    def compact(self) -> int:
        """Make etcd forget all revisions but the last; return that.

        A watch or list at an older one then ends with 410, once the API server was started again: until then
        its own cache remembers. Raises LabError.
        """
        revision = int(self._etcd("kv/range", {"key": "AA=="})["header"]["revision"])
        self._etcd("kv/compaction", {"revision": revision, "physical": True})
        return revision

    def save_state(self, name: str) -> None:
        """Copy etcd's files; the API server and etcd are stopped meanwhile."""
        self._stop_storage()
        saved = self.folder / f"saved-{name}"
        shutil.rmtree(saved, ignore_errors=True)
        shutil.copytree(self._data, saved)
        self._start_etcd()
        self.start_api_server()

    def restore_state(self, name: str) -> None:
        """Go back to what was saved: objects, and resource versions too. Raises LabError."""
        saved = self.folder / f"saved-{name}"
        if not saved.is_dir():
            raise LabError(f"no state {name} was saved: call save_state first")
        self._stop_storage()
        shutil.rmtree(self._data)
        shutil.copytree(saved, self._data)
        self._start_etcd()
        self.start_api_server()

    def kubeconfig(self, identity: Identity) -> Path:
        """Return a kubeconfig with a client certificate, made on first use."""
        name = re.sub(r"[^\w.-]", "_", "+".join((identity.user, *identity.groups)))
        path = self.folder / "kubeconfigs" / name
        access = Access(self.server, self.pki.ca, self.pki.pair(name, identity))
        return kubeconfig.write(path, access)

    def kubeconfig_of_account(self, namespace: str, name: str, seconds: float = 3600) -> Path:
        """Return a kubeconfig with a service account's token. Raises LabError for no such account."""
        path = self.folder / "kubeconfigs" / f"{namespace}.{name}.{seconds:g}"
        access = Access(self.server, self.pki.ca, token=self.token(namespace, name, seconds))
        return kubeconfig.write(path, access)

    def token(self, namespace: str, name: str, seconds: float = 3600) -> str:
        """Sign a service account's token of that life; below 0: one that has ended.

        Raises LabError for no such account.
        """
        uid = self.kubectl("-n", namespace, "get", "serviceaccount", name, "-o", "jsonpath={.metadata.uid}")
        return self.pki.token(namespace, name, uid, seconds, arguments.ISSUER)

    def kubectl(self, *words: str, stdin: str = "", user: Path | None = None, timeout: float = 60) -> str:
        """Return what kubectl prints, asking as ``user`` (a kubeconfig; unset: admin).

        Raises LabError with its complaint.
        """
        done = self.run_kubectl(*words, stdin=stdin, user=user, timeout=timeout)
        if done.returncode:
            raise LabError(f"kubectl {' '.join(words)}: {' '.join(done.stderr.split())}")
        return done.stdout

    def run_kubectl(
        self, *words: str, stdin: str = "", user: Path | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl to its end, whatever that is; status 124 where it takes longer."""
        own = [f"--kubeconfig={user or self.admin}", f"--cache-dir={self.folder / 'kubectl'}"]
        command = [str(self._binaries.path("kubectl")), *own, *words]
        place = self.options.place
        try:
            return subprocess.run(
                place.command(command) if place else command,
                input=stdin,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
                env=environment({"KUBERC": "off"}),  # a person's own preferences change no result
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"no end after {timeout:g} s")

    def _has_come_up(self) -> bool:
        if storage := self._children.get("etcd"):
            storage.check()  # without it the API server would wait for ever
        return self.is_ready()

    @property
    def _namespace(self) -> str:
        return self.options.place.namespace if self.options.place else ""

    @property
    def _data(self) -> Path:
        return self.folder / "etcd"

    def _start_etcd(self) -> None:
        self._start("etcd", arguments.etcd(self._data, self._ports))

    def _start_managers(self) -> None:
        keys = self._keys()
        if self.options.controllers:
            user = self.kubeconfig(pki.CONTROLLER_MANAGER)
            line = arguments.controller_manager(self.options, keys, self._ports, user)
            self._start("kube-controller-manager", line)
        if self.options.scheduler:
            user = self.kubeconfig(pki.SCHEDULER)
            self._start("kube-scheduler", arguments.scheduler(self.options, self._ports, user))

    def _start(self, name: str, line: Sequence[str]) -> Child:
        command = [str(self._binaries.path(name)), *line]
        options = self.options
        program = Program(name, command, self.logs / f"{name}.log", options.place, options.bound)
        started = self._children[name] = Child(program)
        return started

    def _child(self, name: str) -> Child:
        try:
            return self._children[name]
        except KeyError as error:
            raise LabError(f"{name} was never started: call start first") from error

    def _stop_storage(self) -> None:
        self.stop_api_server()
        self._child("etcd").stop()

    def _keys(self) -> Keys:
        options = self.options
        service = [_first_address(network) for network in options.service_networks]
        domain = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        names = [*options.addresses, *options.names, LOOPBACK, "localhost", *service, *domain]
        serving = Identity("kube-apiserver", (), (*dict.fromkeys(names), f"{domain[-1]}.cluster.local"))
        return Keys(
            self.pki.ca,
            self.pki.ca_key,
            self.pki.token_key,
            self.pki.token_public_key,
            self.pki.pair("apiserver", serving),
            self.pki.pair("admin", pki.ADMIN),
        )

    def _etcd(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Ask etcd by its JSON gateway (etcd.io, "Why gRPC gateway")."""
        where = ask.Where(LOOPBACK, self._ports.etcd, self._namespace)
        try:
            return ask.post_json(where, f"/v3/{path}", body)
        except (OSError, http.client.HTTPException) as error:
            raise LabError(f"etcd can't be asked: {error}") from error


def _first_address(network: str) -> str:
    """The Service ``kubernetes`` has the first address of each network."""
    return str(ipaddress.ip_network(network)[_FIRST_SERVICE_ADDRESS])
