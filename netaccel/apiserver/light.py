# SPDX-License-Identifier: Apache-2.0
"""kubernetes_asyncio's configuration loader without the package around it (docs/decisions/0010).

``import kubernetes_asyncio.config`` runs the package's own ``__init__``, which imports every generated
model of the API: some sixty megabytes that would stay for ever. Loading credentials needs none of them. So
two bare packages stand in for ``kubernetes_asyncio`` and ``kubernetes_asyncio.client`` while the few modules
that matter are imported; then all of it leaves ``sys.modules``, and whoever imports the real package later
gets the real one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

_ROOT = "kubernetes_asyncio"


class Library(NamedTuple):
    """What is used of kubernetes_asyncio."""

    kube_config: Any
    incluster_config: Any
    configuration: Any
    """The class ``client.configuration.Configuration``."""
    error: type[Exception]
    """What its loaders raise on purpose."""


@functools.cache
def library() -> Library:
    """Import the loader, without the models where that can be done."""
    if _ROOT in sys.modules:
        return _gather()
    try:
        return _alone()
    except (ImportError, AttributeError, TypeError) as error:
        # The package changed its shape. It serves all the same, only larger.
        log.warning("kubernetes_asyncio can't be loaded without its models, memory grows: %s", error)
        return _gather()


def _alone() -> Library:
    """Import the loader below stand-ins; leaves no trace in sys.modules."""
    spec = importlib.util.find_spec(_ROOT)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise ModuleNotFoundError(f"no package {_ROOT}", name=_ROOT)
    try:
        _stand_in(_ROOT, folders)
        client = _stand_in(f"{_ROOT}.client", [f"{folder}/client" for folder in folders])
        made: Any = importlib.import_module(f"{_ROOT}.client.configuration")
        client.Configuration = made.Configuration
        client.ApiClient = _NoClient
        return _gather()
    finally:
        for name in [name for name in sys.modules if name == _ROOT or name.startswith(f"{_ROOT}.")]:
            del sys.modules[name]


def _stand_in(name: str, folders: list[str]) -> Any:
    """A package of this name whose ``__init__`` is not run."""
    module = ModuleType(name)
    spec = ModuleSpec(name, None, is_package=True)
    spec.submodule_search_locations = folders
    module.__spec__ = spec
    module.__path__ = folders
    sys.modules[name] = module
    return module


def _gather() -> Library:
    kube_config: Any = importlib.import_module(f"{_ROOT}.config.kube_config")
    incluster: Any = importlib.import_module(f"{_ROOT}.config.incluster_config")
    failure: Any = importlib.import_module(f"{_ROOT}.config.config_exception")
    return Library(kube_config, incluster, kube_config.Configuration, failure.ConfigException)


class _NoClient:
    """Stands where the loader's module names the API's client, which is never made here."""
