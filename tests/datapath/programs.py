# SPDX-License-Identifier: Apache-2.0
"""Programs under test: compile, load into the kernel, run on a frame."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from netaccel.datapath import libbpf
from netaccel.datapath.abi import Abi

ROOT = Path(__file__).parents[2]
TC_UNSPEC, TC_SHOT, TC_REDIRECT = 0xFFFFFFFF, 2, 7
SMALL = dict.fromkeys(
    (
        "frontends4", "frontends6", "services", "backends", "maglev", "source_ranges", "flows4", "flows6",
        "affinity", "sock_nat", "sock_udp", "sock_peer", "service_counters",
        "identities", "policy_endpoints", "policy_peers", "policy_rows", "policy_rules", "rule_counters",
        "policy_flows4", "policy_flows6", "gate_addresses", "drop_pairs", "pod_peers",
    ),
    256,
)  # fmt: skip
"""Entries enough for a test of a stage; full-size maps take half a second to make."""


def compile_program(source: Path, out: Path) -> Path:
    """Compile a test's own BPF program against the project's headers."""
    command = ["clang", "-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror"]
    command += ["-Wno-unused-parameter", f"-I/usr/include/{platform.machine()}-linux-gnu"]
    command += [f"-I{ROOT / 'bpf/include'}", "-c", str(source), "-o", str(out)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return out


class Loaded:
    """An object's programs and maps in the kernel, private: nothing is pinned."""

    def __init__(
        self, path: Path, share: Mapping[str, int] | None = None, sizes: Mapping[str, int] | None = None
    ) -> None:
        """``share``: maps of another object by name; ``sizes``: entries of maps, small ones load fast."""
        self.abi = Abi.from_elf(path.read_bytes())
        log = libbpf.log_buffer()
        self._pointer = libbpf.object_open(str(path), log)
        for name, pointer in libbpf.object_maps(self._pointer).items():
            if share and name in share:
                libbpf.map_reuse(pointer, share[name])
            elif sizes and name in sizes:
                libbpf.map_set_max_entries(pointer, sizes[name])
        try:
            libbpf.object_load(self._pointer)
        except OSError as error:
            raise AssertionError(f"{path.name}: {error}\n{libbpf.log_text(log)[-4000:]}") from error
        self.programs = {n: libbpf.program_fd(p) for n, p in libbpf.object_programs(self._pointer).items()}
        self.maps = {n: libbpf.map_fd(p) for n, p in libbpf.object_maps(self._pointer).items()}

    def close(self) -> None:
        libbpf.object_close(self._pointer)

    def __enter__(self) -> Loaded:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, program: str, frame: bytes, room: int | None = None) -> tuple[int, bytes]:
        """Verdict and frame after one run."""
        result = libbpf.test_run(self.programs[program], frame, None, 1, 0, 0, room or len(frame) + 2048)
        return result[0], result[1]

    def write(self, name: str, key: object, value: object) -> None:
        codec = self.abi.maps[name]
        libbpf.map_update(self.maps[name], codec.key.pack(key), codec.value.pack(value))

    def read(self, name: str, key: object) -> object | None:
        """The value, or None; of a per-CPU map the list of values."""
        codec = self.abi.maps[name]
        per_cpu = name in {"drops", "counters", "service_counters", "limiter", "rule_counters"}
        size = (codec.value.size + 7) // 8 * 8 * libbpf.cpus() if per_cpu else codec.value.size
        data = libbpf.map_lookup(self.maps[name], codec.key.pack(key), size)
        if data is None or not per_cpu:
            return None if data is None else codec.value.unpack(data)
        return codec.value.unpack_many(data)

    def zero(self, name: str) -> None:
        """All entries of a per-CPU array back to zero."""
        codec = self.abi.maps[name]
        zeros = bytes((codec.value.size + 7) // 8 * 8 * libbpf.cpus())
        for key in self.keys(name):
            libbpf.map_update(self.maps[name], codec.key.pack(key), zeros)

    def keys(self, name: str) -> list[object]:
        codec, found, key = self.abi.maps[name], [], None
        while (key := libbpf.map_next_key(self.maps[name], key, codec.key.size)) is not None:
            found.append(codec.key.unpack(key))
        return found

    def counter(self, name: str) -> int:
        """Sum over CPUs of one of ``enum counter``."""
        return sum(self.read("counters", self.abi.constants[name]))  # type: ignore[arg-type]

    def dropped(self, name: str) -> int:
        """Packets counted under one of ``enum drop_reason``, over all CPUs."""
        return sum(t.packets for t in self.read("drops", self.abi.constants[name]))  # type: ignore[attr-defined]
