# SPDX-License-Identifier: Apache-2.0
"""The agent's judgement of the cases of tests/cases/crds; the API server's is in tests/kube."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from netaccel.sources import parse
from netaccel.sources.parse import Parsed, Refused

CASES_DIR = Path(__file__).parent.parent / "cases" / "crds"
CASES = [
    pytest.param(case, id=f"{file.stem}: {case['title']}")
    for file in sorted(CASES_DIR.glob("*.yaml"))
    for case in yaml.safe_load(file.read_text())
]


@pytest.mark.parametrize("case", CASES)
def test_case(case: dict[str, Any]) -> None:
    document = {
        "apiVersion": "netaccel.io/v1alpha1",
        "kind": case["kind"],
        "metadata": {"name": "p", "namespace": "shop"},
        "spec": case["spec"],
    }
    (outcome,) = parse.read(document)
    if "refuse" not in case:
        assert isinstance(outcome, Parsed), outcome
        return
    assert isinstance(outcome, Refused)
    assert outcome.path == case["refuse"]["agent"]


def crd(plural: str) -> dict[str, Any]:
    text = (CASES_DIR.parents[2] / "policies" / "crds" / f"{plural}.yaml").read_text()
    found: dict[str, Any] = yaml.safe_load(text)
    return found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]  # type: ignore[no-any-return]


EXPRESSION = {"key": "a", "operator": "Exists"}
TOO_MANY = {
    "ingress": {"ingress": [{"action": "Drop"}]},
    "egress": {"egress": [{"action": "Drop"}]},
    "ingress[0].from": {"ingress": [{"action": "Drop", "from": [{"entity": "node"}]}]},
    "egress[0].to": {"egress": [{"action": "Drop", "to": [{"entity": "node"}]}]},
    "ingress[0].ports": {"ingress": [{"action": "Drop", "ports": [{"port": 1}]}]},
    "egress[0].to[0].except": {
        "egress": [{"action": "Drop", "to": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}]}]
    },
    "subject.pods.matchExpressions": {"subject": {"pods": {"matchExpressions": [EXPRESSION]}}},
    "ingress[0].from[0].podSelector.matchExpressions[0].values": {
        "ingress": [
            {
                "action": "Drop",
                "from": [
                    {
                        "podSelector": {
                            "matchExpressions": [{"key": "a", "operator": "In", "values": ["v"]}]
                        },
                        "namespaceSelector": {},
                    }
                ],
            }
        ]
    },
}


@pytest.mark.parametrize("kind", ["TrafficPolicy", "ClusterTrafficPolicy"])
@pytest.mark.parametrize("path", TOO_MANY)
def test_lists_have_the_schemas_limits(kind: str, path: str) -> None:
    schema: Any = crd(f"{kind.lower()[:-1]}ies")
    spec: Any = {"subject": {}, **TOO_MANY[path]}
    if kind == "ClusterTrafficPolicy":
        spec = {"priority": 1, **spec, "subject": {"namespaces": {}, **spec["subject"]}}
    container, name = spec, ""
    for part in path.replace("[0]", ".0").split("."):
        container, name = (container[name], part) if name != "" else (container, part)
        if part == "0":
            name, schema = 0, schema["items"]  # type: ignore[assignment]
        else:
            schema = schema["properties"][part]
    limit = schema["maxItems"]
    for count, fits in ((limit, True), (limit + 1, False)):
        changed = [*container[name], *container[name] * (count - 1)]  # type: ignore[index]
        container[name], kept = changed, container[name]  # type: ignore[index]
        document = {
            "apiVersion": "netaccel.io/v1alpha1",
            "kind": kind,
            "metadata": {"name": "p"},
            "spec": spec,
        }
        (outcome,) = parse.read(document)
        container[name] = kept  # type: ignore[index]
        if fits:
            assert isinstance(outcome, Parsed), outcome
        else:
            assert isinstance(outcome, Refused)
            assert (outcome.path, f"give at most {limit}" in outcome.reason) == (f"spec.{path}", True)


@pytest.mark.parametrize(("count", "fits"), [(20, True), (21, False)])
def test_a_selector_has_the_schemas_limit_of_labels(count: int, fits: bool) -> None:
    labels = crd("trafficpolicies")["properties"]["subject"]["properties"]["pods"]["properties"][
        "matchLabels"
    ]
    assert labels["maxProperties"] == 20
    document = {
        "apiVersion": "netaccel.io/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": "p"},
        "spec": {"subject": {"pods": {"matchLabels": {f"l{n}": "v" for n in range(count)}}}},
    }
    (outcome,) = parse.read(document)
    assert isinstance(outcome, Parsed) == fits
