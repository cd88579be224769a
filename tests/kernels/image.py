# SPDX-License-Identifier: Apache-2.0
"""The initramfs that a kernel boots into: busybox, a script, the modules in the order in which they load."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator, Mapping
from pathlib import Path
from stat import S_IFCHR, S_IFDIR, S_IFLNK, S_IFREG

# 9p and what carries it; what the tests' networks are made of; what reads and destroys sockets.
MODULES = (
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "veth",
    "dummy",
    "sch_ingress",
    "cls_bpf",
    "inet_diag",
    "tcp_diag",
    "udp_diag",
    "8021q",
    "bridge",
)
NEEDED = ("9p", "9pnet_virtio", "veth", "cls_bpf")

_INIT = """#!/busybox sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
bb=/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sys /sys
$bb mount -t devtmpfs dev /dev
for m in /modules/*; do $bb insmod $m || echo "insmod $m failed"; done
$bb mkdir -p /dev/shm /dev/pts
$bb ln -s /proc/self/fd /dev/fd
for n in 0:stdin 1:stdout 2:stderr; do $bb ln -s /proc/self/fd/${{n%:*}} /dev/${{n#*:}}; done
$bb mount -t devpts pts /dev/pts
for d in /tmp /run /dev/shm; do $bb mount -t tmpfs tmpfs $d; done
{mounts}
$bb mount -t cgroup2 cgroup /sys/fs/cgroup
$bb mount -t bpf bpf /sys/fs/bpf
$bb ifconfig lo up 127.0.0.1
export HOME=/tmp PYTHONPATH={project} PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ulimit -n 65536
cd {project}
{command} </dev/null
echo "guest ended with status $?"
$bb sync
$bb reboot -f
"""


def build(
    modules: Path, busybox: Path, shares: Mapping[str, Path], project: Path, command: str, out: Path
) -> None:
    """Write the image. ``shares``: 9p tags and the folders, mounted where they lie on this machine."""
    mounts = "\n".join(
        f"$bb mkdir -p {path}; $bb mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=524288 "
        f"{tag} {path}"
        for tag, path in shares.items()
    )
    init = _INIT.format(mounts=mounts, project=project, command=command)
    folders = {"dev", "etc", "modules", "proc", "root", "run", "sys", "tmp", "var"}
    for path in (*shares.values(), project):
        parts = path.relative_to("/").parts
        folders |= {"/".join(parts[:depth]) for depth in range(1, len(parts) + 1)}
    archive = _Archive()
    for name in sorted(folders):
        archive.add(name, S_IFDIR | 0o755)
    archive.add("dev/console", S_IFCHR | 0o600, device=(5, 1))
    for name in ("bin", "sbin", "lib", "lib64"):
        archive.add(name, S_IFLNK | 0o777, f"usr/{name}".encode())
    archive.add("var/run", S_IFLNK | 0o777, b"/run")
    archive.add("etc/passwd", S_IFREG | 0o644, b"root:x:0:0:root:/root:/bin/sh\n")
    archive.add("etc/group", S_IFREG | 0o644, b"root:x:0:\n")
    archive.add("etc/hosts", S_IFREG | 0o644, b"127.0.0.1 localhost\n::1 localhost\n")
    for path in (Path("/etc/ld.so.cache"), Path("/etc/protocols"), Path("/etc/services")):
        if path.exists():
            archive.add(str(path.relative_to("/")), S_IFREG | 0o644, path.read_bytes())
    archive.add("busybox", S_IFREG | 0o755, busybox.read_bytes())
    archive.add("init", S_IFREG | 0o755, init.encode())
    for number, (name, content) in enumerate(_in_order(modules)):
        archive.add(f"modules/{number:02}-{name}.ko", S_IFREG | 0o644, content)
    out.write_bytes(gzip.compress(archive.bytes(), 1))


def _in_order(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The modules that are wanted, each after those that it depends on; what is built in has no file."""
    files = {path.name.partition(".ko")[0].replace("-", "_"): path for path in folder.rglob("*.ko*")}
    missing = [name for name in NEEDED if name not in files]
    if missing:
        raise FileNotFoundError(f"{folder}: no module {', '.join(missing)}")
    seen: set[str] = set()

    def with_dependencies(name: str) -> Iterator[tuple[str, bytes]]:
        if name in seen or name not in files:
            return
        seen.add(name)
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        for other in _depends(content):
            yield from with_dependencies(other)
        yield name, content

    for name in MODULES:
        yield from with_dependencies(name)


def _depends(module: bytes) -> list[str]:
    """Of a module's section .modinfo, whose entries are ``name=value`` and a zero byte."""
    start = module.find(b"\0depends=") + 1
    if not start:
        return []
    names = module[start : module.index(b"\0", start)].partition(b"=")[2].decode()
    return [name.replace("-", "_") for name in names.split(",") if name]


class _Archive:
    """The "newc" form of cpio (Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._number = 0

    def add(self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._number += 1
        encoded = name.encode() + b"\0"
        fields = (self._number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._parts += [_padded(header), _padded(content)]

    def bytes(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return b"".join(self._parts)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
