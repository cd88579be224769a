# SPDX-License-Identifier: Apache-2.0
"""Programs that are kept loaded, so that a restart does not verify them again.

Verifying the load balancer costs about a second of CPU. So every program is pinned, whether it is attached
or not, in ``programs/OBJECT/``, beside a note of what it was made of: the object's bytes, its constants, its
maps. Where a new start would make it of the same, it takes what is there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import ExitStack

from netaccel.datapath import libbpf
from netaccel.datapath.bpfobject import BpfObject
from netaccel.datapath.instance import Instance

_NOTE = "made-of-"


class KeptPrograms:
    """The kept programs of one node."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._folder = instance.folder / "programs"

    def adopt(self, obj: BpfObject, maps: Mapping[str, int]) -> bool:
        """Give an object, bound but not loaded, the programs of its like. False where there are none.

        ``maps``: ids of the maps by name.
        """
        if self._instance.note(_NOTE + obj.path.stem) != _made_of(obj, maps):
            return False
        pins = {name: self._folder / obj.path.stem / name for name in obj.wanted_programs()}
        if not all(pin.exists() for pin in pins.values()):
            return False
        with ExitStack() as guard:
            found = {}
            for name, pin in pins.items():
                found[name] = libbpf.obj_get(str(pin))
                guard.callback(os.close, found[name])
            guard.pop_all()
        obj.adopt(found)
        return True

    def keep(self, obj: BpfObject, maps: Mapping[str, int]) -> None:
        """Keep an object's programs instead of those that it had before."""
        made_of = _made_of(obj, maps)
        name = _NOTE + obj.path.stem
        if self._instance.note(name) == made_of:
            return
        self._instance.write_note(name, "")
        folder = self._folder / obj.path.stem
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for program in obj.wanted_programs():
            libbpf.obj_pin(obj.program(program).fd, str(folder / program))
        self._instance.write_note(name, made_of)


def _made_of(obj: BpfObject, maps: Mapping[str, int]) -> str:
    parts = hashlib.sha256(obj.image)
    parts.update(obj.constant_bytes())
    used = sorted((name, maps.get(name, 0)) for name in obj.map_definitions())
    parts.update(repr((used, sorted(obj.wanted_programs()))).encode())
    return parts.hexdigest()
