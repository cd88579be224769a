# SPDX-License-Identifier: Apache-2.0
"""containerd, runc, CNI's plugins and iptables: from the distribution, unpacked in the cache, not installed.

Installed, their services would start and their rules change the machine. `apt-get download` needs no root
and touches nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from netaccel.cluster.build import Say, cache_folder
from netaccel.errors import LabError

PACKAGES = (
    "containerd",
    "runc",
    "containernetworking-plugins",
    # kube-proxy and CNI's portmap plugin ask for iptables; its libraries are its own.
    "iptables",
    "libxtables12",
    "libip4tc2",
    "libip6tc2",
    "libmnl0",
    "libnftnl11",
)
_PLUGINS = "usr/lib/cni"
_NFT_MULTI = "usr/sbin/xtables-nft-multi"
_IPTABLES = tuple(f"{tool}{verb}" for tool in ("iptables", "ip6tables") for verb in ("", "-save", "-restore"))
_WRAPPERS = "wrappers"
_NEEDED = ("usr/bin/containerd", "usr/bin/ctr", "usr/bin/containerd-shim-runc-v2", "usr/sbin/runc")


@dataclass(frozen=True, slots=True)
class Runtime:
    """Unpacked packages below ``root``."""

    root: Path

    @property
    def runc(self) -> Path:
        """What containerd starts containers by."""
        return self.root / "usr/sbin/runc"

    @property
    def ctr(self) -> Path:
        """The client that comes with containerd."""
        return self.root / "usr/bin/ctr"

    @property
    def plugins(self) -> Path:
        """CNI's plugins."""
        return self.root / _PLUGINS

    @property
    def path(self) -> str:
        """Folders of programs, for PATH."""
        return ":".join(str(self.root / part) for part in ("usr/bin", "usr/sbin", _WRAPPERS))


def find_or_fetch(say: Say = lambda _: None) -> Runtime:
    """Return the unpacked packages, fetched on first use. Raises LabError."""
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"runtime-{_key()}"
    with (folder / "runtime.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not final.is_dir():
            say(f"fetching {', '.join(PACKAGES[:4])} from the distribution's archive, once (about 40 MB)")
            _fetch(final)
    return Runtime(final)


def _key() -> str:
    """Another distribution, or another list of packages, is another folder."""
    try:
        release = Path("/etc/os-release").read_bytes()
    except FileNotFoundError:
        release = b""
    return hashlib.sha256(release + " ".join(PACKAGES).encode()).hexdigest()[:16]


def _fetch(final: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise LabError("containerd and runc are taken from Debian's or Ubuntu's archive: no apt-get here")
    with tempfile.TemporaryDirectory(prefix=".fetching-", dir=final.parent) as made:
        debs, root = Path(made) / "debs", Path(made) / "root"
        debs.mkdir()
        root.mkdir()
        _run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", *PACKAGES], debs)
        for package in sorted(debs.iterdir()):
            _run(["dpkg", "-x", str(package), str(root)], debs)
        lacking = [name for name in (*_NEEDED, _NFT_MULTI, _PLUGINS) if not (root / name).exists()]
        if lacking:
            raise LabError(f"the distribution's packages have no {', '.join(lacking)}")
        _wrap(root, final)
        root.rename(final)


def _wrap(root: Path, final: Path) -> None:
    """Write a script for each name of iptables: its libraries and extensions are not where it looks."""
    libraries = next(root.glob("usr/lib/*/libxtables.so.12")).parent.relative_to(root)
    folder = root / _WRAPPERS
    folder.mkdir()
    for name in _IPTABLES:
        script = folder / name
        script.write_text(
            "#!/bin/sh\n"
            f"export LD_LIBRARY_PATH={final / libraries} XTABLES_LIBDIR={final / libraries / 'xtables'}\n"
            f'exec {final / _NFT_MULTI} {name} "$@"\n',
            encoding="utf-8",
        )
        script.chmod(0o755)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise LabError(f"{command[0]} {command[1]}: {said[-1]}")
