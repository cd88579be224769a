# SPDX-License-Identifier: Apache-2.0
"""The tools that build a lab: iproute2 and util-linux' nsenter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from netaccel.errors import LabError

NETNS = Path("/run/netns")
_PACKAGES = {"ip": "iproute2", "nsenter": "util-linux"}


def require_root_and_tools() -> None:
    """Raise LabError with one line that names what is missing and the remedy."""
    if os.geteuid() != 0:
        raise LabError("the lab makes network namespaces and loads BPF: run it as root")
    missing = [tool for tool in _PACKAGES if shutil.which(tool) is None]
    if missing:
        packages = " ".join(sorted({_PACKAGES[tool] for tool in missing}))
        raise LabError(f"missing: {', '.join(missing)}; apt-get install {packages}")


def run(*command: str, stdin: str = "") -> str:
    """Run a tool and return what it printed. Raises LabError with its complaint."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise LabError(f"{' '.join(command)}: {complaint}")
    return done.stdout


def ip(lines: Iterable[str], namespace: str = "", *, force: bool = False) -> None:
    """Run lines of ``ip`` in one process, in a named namespace. ``force``: go on after a line that fails."""
    text = "\n".join(lines)
    if not text:
        return
    command = ["ip", *(["-n", namespace] if namespace else []), *(["-force"] if force else [])]
    done = subprocess.run([*command, "-batch", "-"], input=text, capture_output=True, text=True, check=False)
    if done.returncode and not force:
        raise LabError(f"{' '.join(command)}: {_failed_line(done.stderr, text)}")


def ip_json(*command: str, namespace: str = "") -> list[dict[str, Any]]:
    """Output of an ``ip`` command as objects."""
    output = run("ip", *(["-n", namespace] if namespace else []), "-json", *command)
    found: list[dict[str, Any]] = json.loads(output) if output.strip() else []
    return found


def namespace_path(namespace: str) -> Path:
    """The file that holds a named namespace open."""
    return NETNS / namespace


def inside(namespace: str, command: Sequence[str]) -> list[str]:
    """Return the command that runs in the namespace (``ip netns exec`` would hide cgroups and bpffs)."""
    return ["nsenter", f"--net={namespace_path(namespace)}", "--", *command]


def write_sysctls(namespace: str, values: Mapping[str, str | int]) -> None:
    """Write sysctls (``net/ipv4/ip_forward``: 1) of a namespace; what this kernel lacks is left out."""
    script = "\n".join(
        f"[ -e /proc/sys/{name} ] && echo {value} >/proc/sys/{name}" for name, value in values.items()
    )
    run(*inside(namespace, ["sh", "-c", f"{script}\n:"]))


def _failed_line(stderr: str, text: str) -> str:
    """``Command failed -:3`` says little: name the line."""
    lines = text.splitlines()
    for line in stderr.splitlines():
        _, failed, number = line.partition("Command failed -:")
        if failed and number.isdigit() and 0 < int(number) <= len(lines):
            complaint = " ".join(stderr.replace(line, "").split())
            return f"{lines[int(number) - 1]}: {complaint}"
    return " ".join(stderr.split())
