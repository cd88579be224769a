# SPDX-License-Identifier: Apache-2.0
"""netaccel in a cluster: a user's kustomization, with this cluster's API server filled in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

import netaccel
from netaccel.cluster.control import Control
from netaccel.cluster.plan import API_PORT, Plan
from netaccel.errors import LabError
from netaccel.lab.plan import ROUTER4

_PROJECT = Path(netaccel.__file__).parents[1]
OVERLAY = _PROJECT / "deploy/overlays/instead-of-kube-proxy"
IMAGE = _PROJECT / "dist/netaccel-image.tar"
_NAME = "netaccel"
_FILE = "config.yaml"


def check_overlay(overlay: Path) -> None:
    """Raise LabError where there is no kustomization."""
    if not (overlay / "kustomization.yaml").is_file():
        raise LabError(f"{overlay}: no kustomization.yaml there: give --manifests DIR, or --proxy none")


def check_image(image: Path) -> None:
    """Raise LabError where an image isn't there."""
    if not image.is_file():
        raise LabError(f"{image}: no such image: `make image` makes netaccel's; or give --image FILE")


def folder(plan: Plan) -> Path:
    """A kustomization on top of the one that was given: to be applied again, or deleted."""
    return plan.run / "netaccel"


def apply(plan: Plan, control: Control, overlay: Path, timeout: int) -> None:
    """Apply it and wait until every agent is ready. Raises LabError."""
    rendered = list(yaml.safe_load_all(control.kubectl("kustomize", str(overlay))))
    own = folder(plan)
    own.mkdir(exist_ok=True)
    (own / _FILE).write_text(config(rendered), encoding="utf-8")
    (own / "kustomization.yaml").write_text(
        yaml.safe_dump(kustomization(os.path.relpath(overlay, own)), sort_keys=False), encoding="utf-8"
    )
    control.kubectl("apply", "-k", str(own))
    for where, name in _daemon_sets(rendered):
        words = ("-n", where, "rollout", "status", f"daemonset/{name}", f"--timeout={timeout}s")
        control.kubectl(*words, timeout=timeout + 10)


def config(rendered: list[dict[str, Any]]) -> str:
    """Return the agents' settings as the kustomization has them, with the API server if it names none.

    Raises LabError.
    """
    for item in rendered:
        if item["kind"] == "ConfigMap" and item["metadata"]["name"] == _NAME:
            found: dict[str, Any] = yaml.safe_load(item["data"][_FILE]) or {}
            found["apiServers"] = found.get("apiServers") or [f"{ROUTER4}:{API_PORT}"]
            text: str = yaml.safe_dump(found, sort_keys=False)
            return text
    raise LabError(f"the kustomization has no ConfigMap {_NAME} with a {_FILE}: give another --manifests")


def kustomization(base: str) -> dict[str, Any]:
    """Build the kustomization that replaces the settings of the one in ``base``."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": _NAME,
        "resources": [base],
        "configMapGenerator": [{"name": _NAME, "behavior": "replace", "files": [_FILE]}],
        "generatorOptions": {"disableNameSuffixHash": True},
    }


def _daemon_sets(rendered: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (item["metadata"].get("namespace", "default"), item["metadata"]["name"])
        for item in rendered
        if item["kind"] == "DaemonSet"
    ]
