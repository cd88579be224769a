# SPDX-License-Identifier: Apache-2.0
"""What a kubeconfig says, checked before a library reads it, so that every mistake is one clear line.

Several files are merged as kubectl does (Kubernetes docs, "Organizing Cluster Access Using kubeconfig
Files"): of any value the first file that has it counts, files that aren't there are skipped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netaccel.errors import ConfigError

_FILES = (
    ("cluster", "certificate-authority"),
    ("user", "client-certificate"),
    ("user", "client-key"),
    ("user", "tokenFile"),
)


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """The current context, and the files that it is made of.

    ``plugin``: command of its exec credentials, "" where there is none. ``token_file``: what holds the
    token, None where something else does.
    """

    paths: str
    context: str
    user: str
    files: tuple[Path, ...]
    plugin: str = ""
    token_file: Path | None = None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One named entry and the file that it is from."""

    file: Path
    value: Mapping[str, Any]

    def path(self, name: str) -> Path | None:
        """A file that it names; relative ones are beside the kubeconfig."""
        found = self.value.get(name)
        return self.file.parent / found if isinstance(found, str) and found else None


def read(paths: str) -> Kubeconfig:
    """Read and check ``a:b:c``. Raises ConfigError."""
    files = [Path(part).expanduser().absolute() for part in paths.split(os.pathsep) if part]
    there = {file: content for file in files if (content := _load(file)) is not None}
    if not there:
        raise ConfigError(f"kubeconfig {paths}: no such file: give one that is there")
    context = next((text for one in there.values() if (text := one.get("current-context"))), "")
    if not context:
        raise ConfigError(
            f"kubeconfig {paths}: current-context is not set: `kubectl config use-context NAME`"
        )
    entry = _entry(there, "context", context, paths)
    cluster = _entry(there, "cluster", entry.value.get("cluster"), paths)
    if not isinstance(cluster.value.get("server"), str):
        raise ConfigError(
            f"kubeconfig {cluster.file}: cluster {entry.value['cluster']} has no server: give its URL"
        )
    name = entry.value.get("user") or ""
    user = _entry(there, "user", name, paths) if name else _Entry(entry.file, {})
    named = {
        key: place.path(key)
        for place, key in ((cluster if of == "cluster" else user, key) for of, key in _FILES)
    }
    for key, file in named.items():
        if file is not None and not file.is_file() and not _inline(cluster, user, key):
            raise ConfigError(f"kubeconfig {paths}: {key} {file}: no such file: correct the path")
    return Kubeconfig(
        paths=os.pathsep.join(str(file) for file in there),
        context=str(context),
        user=str(name),
        files=(*there, *(file for file in named.values() if file is not None)),
        plugin=_plugin(user, str(name)),
        token_file=named["tokenFile"],
    )


def _inline(cluster: _Entry, user: _Entry, key: str) -> bool:
    """Whether the data stands beside the file's name, and wins."""
    return any(entry.value.get(f"{key}-data") for entry in (cluster, user))


def _load(file: Path) -> Mapping[str, Any] | None:
    """One file's content; None where there is no such file."""
    import yaml

    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"kubeconfig {file}: {reason}: make it readable") from error
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"kubeconfig {file}{where}: not YAML: {str(error).splitlines()[0]}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"kubeconfig {file}: holds a {type(content).__name__}: give a mapping")
    return content


def _entry(there: Mapping[Path, Mapping[str, Any]], kind: str, name: object, paths: str) -> _Entry:
    """The first file's entry of this name."""
    for file, content in there.items():
        entries = content.get(f"{kind}s") or []
        if not isinstance(entries, list):
            raise ConfigError(f"kubeconfig {file}: {kind}s is no list: give a list of named entries")
        for entry in entries:
            if isinstance(entry, dict) and entry.get("name") == name:
                value = entry.get(kind)
                if not isinstance(value, dict):
                    raise ConfigError(f"kubeconfig {file}: {kind} {name} is empty: say what it is")
                return _Entry(file, value)
    raise ConfigError(f"kubeconfig {paths}: there is no {kind} {name!r}: correct the name or add it")


def _plugin(user: _Entry, name: str) -> str:
    """The exec plugin's command, which must be there."""
    found = user.value.get("exec")
    if found is None:
        return ""
    command = found.get("command") if isinstance(found, dict) else None
    if not isinstance(command, str) or not command:
        raise ConfigError(f"kubeconfig {user.file}: user {name}: exec has no command: name the plugin")
    if shutil.which(command) is None:
        raise ConfigError(
            f"kubeconfig {user.file}: user {name}: exec plugin {command} is not there: install it"
        )
    return command
