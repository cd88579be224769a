# SPDX-License-Identifier: Apache-2.0
"""One Pod for each workload of a folder of manifests: files of what never ran name Deployments, not Pods."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from netaccel.model.endpoint import Pod
from netaccel.sources import tree
from netaccel.sources.documents import plain_documents
from netaccel.sources.parse import Parsed, read

_TEMPLATES = {
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "ReplicationController": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
"""Where a kind has its Pods' template."""


def workload_pods(directory: Path) -> Iterator[Pod]:
    """Pods made of templates, named as their workloads; what can't be read is left out.

    Raises OSError where the folder can't be read.
    """
    for name in sorted(tree.scan(directory).files):
        for workload in _objects(directory / name):
            pod = _pod(workload)
            if pod is not None:
                yield pod


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file, those in Lists too. What can't be read has been told by who read it first."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        documents = [json.loads(text)] if file.suffix.lower() == ".json" else plain_documents(text)
    except (OSError, yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError):
        return
    for document in documents:
        if isinstance(document, dict):
            items = document.get("items") if document.get("kind") == "List" else None
            yield from (one for one in items if isinstance(one, dict)) if items else (document,)


def _pod(workload: dict[str, Any]) -> Pod | None:
    path = _TEMPLATES.get(str(workload.get("kind")))
    metadata = workload.get("metadata")
    if path is None or not isinstance(metadata, dict):
        return None
    template: Any = workload
    for step in path:
        template = template.get(step) if isinstance(template, dict) else None
    if not isinstance(template, dict):
        return None
    inner = template.get("metadata")
    about = {
        "name": metadata.get("name"),
        "namespace": metadata.get("namespace"),
        "labels": inner.get("labels") if isinstance(inner, dict) else None,
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": about, "spec": template.get("spec")}
    found = next(iter(read(pod)), None)
    made = found.object if isinstance(found, Parsed) else None
    return made if isinstance(made, Pod) else None
