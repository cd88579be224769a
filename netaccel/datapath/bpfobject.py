# SPDX-License-Identifier: Apache-2.0
"""One compiled object: open, set constants and sizes, load, find programs and maps, run programs.

::

    with BpfObject(path) as obj:
        obj.set_constant("settings", {"hz": 250})
        obj.resize("flows4", 1000)
        obj.load()
        obj.program("tc_uplink_ingress").test_run(frame)
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from netaccel.datapath import libbpf
from netaccel.datapath.abi import Abi
from netaccel.datapath.bpfmap import KernelMap
from netaccel.datapath.btf import Btf, Kind, Type
from netaccel.errors import AbiError, DatapathError, UnsupportedError, VerifierError

OBJECTS = Path(__file__).parent.parent / "objects"
"""Where the package carries its compiled objects."""

_TEST_RUN_ROOM = 256 + 65536


class ProgramInfo(NamedTuple):
    """A loaded program as the kernel describes it; ``tag`` is a hash of its instructions."""

    id: int
    name: str
    tag: bytes
    maps: tuple[int, ...]


def program_info(fd: int) -> ProgramInfo:
    """Struct bpf_prog_info of a program's descriptor."""
    raw = libbpf.info(fd)
    count = struct.unpack_from("=I", raw, 52)[0]
    maps = bytearray(4 * max(count, 1))
    asked = bytes(52) + struct.pack("=IQ", count, libbpf.address_of(maps))
    raw = libbpf.info(fd, asked)
    number = struct.unpack_from("=I", raw, 4)[0]
    name = raw[64:80].partition(b"\0")[0].decode()
    return ProgramInfo(number, name, raw[8:16], struct.unpack(f"={count}I", maps[: 4 * count]))


def same_program(number: int, fd: int) -> bool:
    """Whether program id ``number`` is what ``fd`` is: same text, same maps, same constants.

    The kernel's tag covers the text alone; the constants are the contents of the ``.rodata`` maps.
    """
    try:
        other = libbpf.fd_by_id("prog", number)
    except FileNotFoundError:
        return False
    try:
        there, here = program_info(other), program_info(fd)
    finally:
        os.close(other)
    return (there.name, there.tag) == (here.name, here.tag) and _contents(there) == _contents(here)


def _contents(program: ProgramInfo) -> list[bytes | int]:
    """Ids of a program's maps; of its constants the contents, since each load has a map of its own."""
    found: list[bytes | int] = []
    for number in program.maps:
        with KernelMap.open_id(number) as opened:
            constant = opened.info.name.endswith(".rodata")
            found.append((opened.lookup(bytes(4)) or b"") if constant else number)
    return sorted(found, key=str)


class Program:
    """A program of a loaded object. The object owns its descriptor."""

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.fd = fd

    @cached_property
    def info(self) -> ProgramInfo:
        """Id, tag and maps."""
        return program_info(self.fd)

    def test_run(
        self,
        data: bytes | None = None,
        context: bytes | None = None,
        *,
        repeat: int = 1,
        flags: int = 0,
        batch: int = 0,
        room: int = _TEST_RUN_ROOM,
    ) -> libbpf.Run:
        """Run the program in the kernel on a packet (BPF_PROG_TEST_RUN).

        ``context`` is a struct xdp_md or __sk_buff. ``flags``: BPF_F_TEST_RUN_ON_CPU 1,
        BPF_F_TEST_XDP_LIVE_FRAMES 2 (then ``room`` must be 0 and ``batch`` may be set). A packet that
        is rewritten is not put back between repeats.
        """
        try:
            return libbpf.test_run(self.fd, data, context, repeat, flags, batch, room)
        except OSError as error:
            raise DatapathError(
                f"program {self.name}: test run refused: {error.strerror}", error.errno or 0
            ) from error


class BpfObject:
    """An object file and, after :meth:`load`, its programs and maps in the kernel."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open and parse. DatapathError where the file is absent or is no BPF object."""
        self.path = Path(path)
        self.loaded = False
        self._pointer: libbpf.Pointer = 0
        self._adopted: dict[str, int] = {}
        self._left_out: set[str] = set()
        self._log = libbpf.log_buffer()
        libbpf.take_messages()
        try:
            self.image = self.path.read_bytes()
            self._pointer = libbpf.object_open(str(self.path), self._log)
        except OSError as error:
            detail = "; ".join(libbpf.take_messages()) or error.strerror
            raise DatapathError(
                f"{self.path}: can't be opened: {detail}; build the objects with `make bpf`", error.errno or 0
            ) from error
        self._maps = libbpf.object_maps(self._pointer)
        self._programs = libbpf.object_programs(self._pointer)

    @classmethod
    def named(cls, name: str) -> Self:
        """One of the package's own objects: ``tc_uplink`` is ``objects/tc_uplink.o``."""
        return cls(OBJECTS / f"{name}.o")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the object; what is pinned or attached stays in the kernel."""
        if self._pointer:
            libbpf.object_close(self._pointer)
            self._pointer = 0
        for fd in self._adopted.values():
            os.close(fd)
        self._adopted.clear()

    @cached_property
    def btf(self) -> Btf:
        """The object's types."""
        return Btf.from_elf(self.image)

    @cached_property
    def abi(self) -> Abi:
        """Codecs and constants of the object."""
        return Abi(self.btf)

    # ----------------------------------------------------------- before load

    def map_definitions(self) -> Mapping[str, libbpf.MapInfo]:
        """Maps that the object declares, data sections left out."""
        return {
            name: libbpf.map_definition(pointer)
            for name, pointer in self._maps.items()
            if not libbpf.map_is_internal(pointer)
        }

    def program_names(self) -> tuple[str, ...]:
        """Programs of the object, loaded or not."""
        return tuple(self._programs)

    def set_constant(self, name: str, value: int | Mapping[str, int]) -> None:
        """Set a ``const volatile`` variable before load: an integer, or fields of a struct by name.

        Fields that are not named keep the value that the source gives them. AbiError for an unknown
        variable or field; ValueError where a number does not fit.
        """
        offset, kind = self.btf.variable(".rodata", name)
        section = libbpf.map_initial_value(self._data_section())
        if isinstance(value, int):
            _put(section, offset, kind, name, value)
            return
        fields = {field.name: field for field in self.btf.struct_of(kind).fields}
        for field_name, number in value.items():
            field = fields.get(field_name)
            if field is None:
                raise AbiError(f"{self.path.name}: {name} has no field {field_name}")
            _put(section, offset + field.offset, field.type, f"{name}.{field_name}", number)

    def constant_bytes(self) -> bytes:
        """The read-only data section as it will be loaded; empty where the object has none."""
        return bytes(libbpf.map_initial_value(self._data_section())) if self._has_data() else b""

    def resize(self, name: str, entries: int) -> None:
        """Set a map's max_entries before load."""
        self._call(
            f"map {name}: size {entries} refused", libbpf.map_set_max_entries, self._map(name), entries
        )

    def reuse(self, name: str, fd: int) -> None:
        """Use an existing map (its descriptor is duplicated) instead of creating one."""
        self._call(f"map {name}: can't be reused", libbpf.map_reuse, self._map(name), fd)

    def wanted_programs(self) -> tuple[str, ...]:
        """Programs of the object that are or will be loaded."""
        return tuple(name for name in self._programs if name not in self._left_out)

    def leave_out(self, name: str) -> None:
        """Do not load a program."""
        self._left_out.add(name)
        self._call(
            f"program {name}: can't be left out", libbpf.program_set_autoload, self._program(name), False
        )

    def only(self, *names: str) -> None:
        """Load these programs alone."""
        for name in set(self._programs) - set(names):
            self.leave_out(name)

    def set_flags(self, name: str, flags: int) -> None:
        """Add BPF_F_* flags to a program's load."""
        self._call(f"program {name}: flags refused", libbpf.program_set_flags, self._program(name), flags)

    def load(self) -> None:
        """Create the maps, load the programs.

        VerifierError where a program is refused; UnsupportedError where the caller lacks the right;
        else DatapathError.
        """
        libbpf.take_messages()
        try:
            libbpf.object_load(self._pointer)
        except OSError as error:
            raise self._load_error(error) from error
        self.loaded = True

    def adopt(self, programs: Mapping[str, int]) -> None:
        """Take programs that an earlier, equal object loaded, by name; their descriptors are taken over."""
        self._adopted = dict(programs)
        self.loaded = True

    # ------------------------------------------------------------ after load

    def program(self, name: str) -> Program:
        """A loaded program."""
        if name in self._adopted:
            return Program(name, self._adopted[name])
        return Program(name, libbpf.program_fd(self._program(name)))

    def section(self, name: str) -> str:
        """ELF section of a program."""
        return libbpf.program_section(self._program(name))

    def attach_type(self, name: str) -> int:
        """Expected attach type of a program (enum bpf_attach_type)."""
        return libbpf.program_attach_type(self._program(name))

    def map_fd(self, name: str) -> int:
        """Descriptor of a loaded map, owned by the object."""
        return libbpf.map_fd(self._map(name))

    def map(self, name: str) -> KernelMap:
        """A loaded map with a descriptor of its own."""
        return KernelMap(os.dup(self.map_fd(name)), name)

    # --------------------------------------------------------------- insides

    def _map(self, name: str) -> libbpf.Pointer:
        if name not in self._maps:
            raise DatapathError(f"{self.path.name} has no map {name}", errno.ENOENT)
        return self._maps[name]

    def _program(self, name: str) -> libbpf.Pointer:
        if name not in self._programs:
            raise DatapathError(f"{self.path.name} has no program {name}", errno.ENOENT)
        return self._programs[name]

    def _has_data(self) -> bool:
        return any(name.endswith(".rodata") for name in self._maps)

    def _data_section(self) -> libbpf.Pointer:
        for name, pointer in self._maps.items():
            if name.endswith(".rodata"):
                return pointer
        raise AbiError(f"{self.path.name} has no constants")

    def _call(self, what: str, function: Callable[..., None], *arguments: int) -> None:
        try:
            function(*arguments)
        except OSError as error:
            raise DatapathError(f"{self.path.name}: {what}: {error.strerror}", error.errno or 0) from error

    def _load_error(self, error: OSError) -> DatapathError:
        number = error.errno or 0
        messages = libbpf.take_messages()
        log = libbpf.log_text(self._log).strip()
        failed = next(
            (m[1] for m in (re.search(r"prog '(\w+)': .*fail", line) for line in messages) if m), ""
        )
        if failed and log:
            line = verdict_line(log)
            name = errno.errorcode.get(number, str(number))
            return VerifierError(f"program {failed} refused by the verifier: {line} ({name})", number, log)
        telling = [line for line in messages if "failed to load object" not in line]
        detail = next(iter(telling), error.strerror or "")
        detail = detail.removeprefix("libbpf: ")
        text = f"{self.path.name} can't be loaded: {detail}"
        if number == errno.EPERM:
            return UnsupportedError(
                f"{text}; run as root with CAP_BPF and CAP_NET_ADMIN, and on kernels before 5.11 "
                "raise RLIMIT_MEMLOCK (ulimit -l unlimited)",
                number,
            )
        return DatapathError(text, number)


def verdict_line(log: str) -> str:
    """The line of a verifier's log that says what is wrong: the last that is no statistics or trace."""
    noise = re.compile(
        r"^(processed \d+ insns|verification time|stack depth|peak_states|mark_|max_states|;|\d+: |from \d+"
        r"|R\d+[_=]|parent |regs=|last_idx|first_idx|arg#|func#|\(.*truncated|-- |$)"
    )
    lines = [line.strip() for line in log.splitlines()]
    return next((line for line in reversed(lines) if not noise.match(line)), lines[-1] if lines else "")


def _put(section: memoryview, offset: int, kind: Type, name: str, value: int) -> None:
    if kind.kind not in (Kind.INT, Kind.ENUM):
        raise AbiError(f"constant {name} is {kind}, not an integer")
    letter = {1: "B", 2: "H", 4: "I", 8: "Q"}[kind.size]
    try:
        struct.pack_into("=" + (letter.lower() if kind.signed else letter), section, offset, value)
    except struct.error as error:
        raise ValueError(f"constant {name}: {value} does not fit {kind}") from error
