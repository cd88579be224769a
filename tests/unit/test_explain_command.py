# SPDX-License-Identifier: Apache-2.0
"""`netaccel explain` over a folder of manifests: what it prints, and how it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from netaccel.cli import netaccel
from netaccel.model.policy import Action, Direction
from netaccel.model.snapshot import World
from netaccel.oracle import Judgement, Outcome, Question

CASES = Path(__file__).parents[1] / "cases"
POLICY = """\
# first line
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: other, namespace: bank}
spec: {podSelector: {}}
---
kind: List
apiVersion: v1
items:
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: web, namespace: shop}
    spec:
      podSelector: {matchLabels: {app: web}}
      ingress:
        - ports: [{port: 443}]
        - from: [{podSelector: {matchLabels: {app: client}}}]
          ports: [{port: http}]
  - apiVersion: netaccel.io/v1alpha1
    kind: TrafficPolicy
    metadata: {name: watch, namespace: shop}
    spec:
      mode: Monitor
      subject: {pods: {matchLabels: {app: web}}}
      ingress:
        - {name: late, action: Drop, ports: [{port: 8080}]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cluster.yaml").write_text((CASES / "cluster.yaml").read_text())
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "web.yaml").write_text(POLICY)
    return tmp_path


def explain(folder: Path, *arguments: str, lines: str = "") -> Result:
    arguments = ("explain", "--manifests", str(folder), *arguments)
    return CliRunner().invoke(netaccel, arguments, input=lines, prog_name="netaccel")


def courses(result: Result) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(result.stdout)["courses"]
    return found


def test_the_rule_is_named_with_its_file_and_line(folder: Path) -> None:
    result = explain(folder, "pod:shop/client", "pod:shop/web:80")
    assert result.exit_code == 0
    assert "ingress forwarded: NetworkPolicy shop/web rule 1 (Allow) [policies/web.yaml:17]" in result.output


def test_isolation_is_named_with_its_policy(folder: Path) -> None:
    result = explain(folder, "world", "pod:shop/web:80")
    assert result.exit_code == 3
    assert (
        "dropped: NetworkPolicy shop/web isolates the pod, and no rule allows it [policies/web.yaml:10]"
        in result.output
    )


def test_what_monitoring_would_drop_is_audited_and_allowed(folder: Path) -> None:
    result = explain(folder, "pod:shop/client", "pod:shop/web:8080", "-o", "json")
    assert result.exit_code == 0
    ingress = courses(result)[0]["ingress"]
    assert ingress["verdict"] == "audited"
    assert (ingress["object"], ingress["rule"], ingress["action"]) == ("TrafficPolicy shop/watch", 0, "Drop")
    assert ingress["at"] == "policies/web.yaml:26"


def test_steps_say_what_became_of_every_rule(folder: Path) -> None:
    result = explain(folder, "pod:shop/client", "pod:shop/web:8080", "--steps")
    assert "NetworkPolicy shop/web rule 0, Allow: is about other ports" in result.output
    assert "NetworkPolicy shop/web rule 1, Allow: decides" in result.output
    assert "shop/watch rule 0 (late), Drop, monitored: would decide if monitoring were" in result.output


def test_icmp_by_type(folder: Path) -> None:
    result = explain(
        folder, "world", "pod:shop/web", "--protocol", "ICMP", "--icmp-type", "13/1", "-o", "json"
    )
    destination = courses(result)[0]["ingress"]["destination"]
    assert destination == "pod:shop/web (10.1.0.1 ICMP type 13 code 1)"


def test_an_object_that_cannot_be_used_is_told_and_fails_whoever_relies_on_the_files(folder: Path) -> None:
    bad = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "bad"}}
    (folder / "bad.yaml").write_text(yaml.safe_dump({**bad, "spec": {"ingres": []}}))
    result = explain(folder, "pod:shop/client", "pod:shop/web:80")
    assert result.exit_code == 1
    assert "bad.yaml#1: NetworkPolicy default/bad: spec.ingres" in result.stderr
    assert "ingress forwarded: NetworkPolicy shop/web rule 1 (Allow)" in result.stdout, "the rest goes on"
    question = json.dumps({"from": "pod:shop/client", "to": "pod:shop/web", "port": 80})
    batch = explain(folder, "--batch", lines=question)
    assert (batch.exit_code, json.loads(batch.stdout)["allowed"]) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("pod:shop/none", "pod:shop/web:80"), 1, "there is no such Pod"),
        (("web", "pod:shop/web:80"), 1, "give pod:NS/NAME"),
        (("pod:shop/web",), 2, "give SRC and DST"),
        (("pod:shop/web", "world:80", "--batch"), 2, "leave SRC and DST out"),
        (("pod:shop/web", "world", "--protocol", "ICMP", "--icmp-type", "x"), 1, "give TYPE or TYPE/CODE"),
    ],
)
def test_what_cannot_be_asked(folder: Path, arguments: tuple[str, ...], status: int, said: str) -> None:
    result = explain(folder, *arguments)
    assert result.exit_code == status
    assert said in result.stderr


def test_a_workload_stands_for_its_pods(folder: Path) -> None:
    template = {"metadata": {"labels": {"app": "client"}}, "spec": {"containers": [{"name": "a"}]}}
    about = {"name": "front", "namespace": "shop"}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": about}
    (folder / "front.yaml").write_text(yaml.safe_dump({**deployment, "spec": {"template": template}}))
    result = explain(folder, "pod:shop/front", "pod:shop/web:80")
    assert result.exit_code == 0
    assert "NetworkPolicy shop/web rule 1 (Allow)" in result.stdout
    assert "1 Pod without a node or an address" in result.stderr


def refused(folder: Path) -> str:
    """A policy that can't be used stands in the folder now; why."""
    bad = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    meta, spec = {"name": "bad", "namespace": "shop"}, {"podSelector": {}, "ingres": []}
    (folder / "bad.yaml").write_text(yaml.safe_dump({**bad, "metadata": meta, "spec": spec}))
    return "spec.ingres: "


def test_what_a_refused_policy_denies_is_said_to_be_its_refusal(folder: Path) -> None:
    why = refused(folder)
    result = explain(folder, "pod:shop/client", "pod:shop/web:80", "--steps")
    assert (
        f"dropped: NetworkPolicy shop/bad was refused, so it denies what it selects ({why}" in result.stdout
    )
    assert "Namespaced: NetworkPolicy shop/bad, refused, denies all: decides" in result.stdout
    assert "shop/bad rule 0" not in result.stdout
    view = courses(explain(folder, "pod:shop/client", "pod:shop/web:80", "-o", "json"))[0]["ingress"]
    assert (view["why"], view["object"], view["action"]) == ("refused", "NetworkPolicy shop/bad", "Drop")
    assert view["reason"].startswith(why)
    question = json.dumps({"from": "pod:shop/client", "to": "pod:shop/web", "port": 80})
    assert json.loads(explain(folder, "--batch", lines=question).stdout)["ingress"]["why"] == "refused"


@pytest.mark.root
def test_the_kernel_says_so_too(folder: Path) -> None:
    refused(folder)
    result = explain(folder, "pod:shop/client", "pod:shop/web:80", "--by", "both")
    assert "NetworkPolicy shop/bad was refused" in result.stdout
    assert "so say model and kernel" in result.stdout


def test_the_kernel_is_root_s_to_ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert explain(folder, "pod:shop/client", "pod:shop/web:80").exit_code == 0
    result = explain(folder, "pod:shop/client", "pod:shop/web:80", "--by", "kernel")
    assert (result.exit_code, "needs root" in result.stderr) == (1, True)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = explain(tmp_path / "none", "world", "pod:shop/web:80")
    assert result.exit_code == 1
    assert "give a directory that can be read" in result.stderr


def test_batch_answers_in_order_and_says_which_rule(folder: Path) -> None:
    asked = [
        {"from": "pod:shop/client", "to": "pod:shop/web", "port": 80, "protocol": "TCP"},
        {"from": "pod:bank/teller", "to": "pod:shop/web", "port": 80, "protocol": "TCP"},
        {"from": "pod:shop/client", "to": "pod:shop/web", "port": 53, "protocol": "UDP"},
        {"from": "pod:shop/client", "to": "pod:shop/web:8080"},
    ]
    result = explain(folder, "--batch", lines="\n".join(map(json.dumps, asked)) + "\n\n")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert [(one["from"], one["port"]) for one in told] == [(one["from"], one.get("port")) for one in asked]
    assert [one["allowed"] for one in told] == [True, False, False, True]
    assert [(one["ingress"]["object"], one["ingress"]["rule"], one["ingress"]["why"]) for one in told] == [
        ("NetworkPolicy shop/web", 1, "rule"),
        ("NetworkPolicy shop/web", None, "isolated"),
        ("NetworkPolicy shop/web", None, "isolated"),
        ("TrafficPolicy shop/watch", 0, "rule"),
    ]
    assert told[0]["egress"]["why"] == "default"


def test_a_bad_line_of_a_batch_harms_only_itself(folder: Path) -> None:
    good = json.dumps({"from": "world", "to": "pod:shop/web", "port": 443})
    lines = ["{", '{"from": "pod:shop/web"}', '{"from": "pod:a/b", "to": "world", "port": 1}', good]
    result = explain(folder, "--batch", lines="\n".join(lines))
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert ["error" in one for one in told] == [True, True, True, False]
    assert told[3]["allowed"] is True


@pytest.mark.root
@pytest.mark.parametrize("by", ["kernel", "both"])
def test_the_kernel_names_the_same_rules(folder: Path, by: str) -> None:
    result = explain(folder, "pod:shop/client", "pod:shop/web:8080", "--by", by, "-o", "json")
    assert result.exit_code == 0, result.output
    ingress = courses(result)[0]["ingress"]
    assert (ingress["verdict"], ingress["object"], ingress["rule"]) == (
        "audited",
        "TrafficPolicy shop/watch",
        0,
    )
    assert sorted(ingress["by"]) == (["kernel", "model"] if by == "both" else [])


def test_a_disagreement_is_an_error_with_both_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Liar:
        def __init__(self, world: World) -> None:
            pass

        def __enter__(self) -> Liar:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def ask(self, direction: Direction, question: Question) -> Judgement:
            return Judgement(Outcome(True, Action.ALLOW), Outcome(True, Action.ALLOW))

    monkeypatch.setattr("netaccel.explain.kernel.Kernel", Liar)
    result = explain(folder, "world", "pod:shop/web:80", "--by", "both")
    assert result.exit_code == 1
    assert "model: dropped: NetworkPolicy shop/web isolates" in result.stdout
    assert "kernel: forwarded: no policy decides" in result.stdout
    assert "model and kernel disagree" in result.stderr
    batch = explain(folder, "--batch", "--by", "both", lines='{"from": "world", "to": "pod:shop/web:80"}')
    assert batch.exit_code == 1
    assert json.loads(batch.stdout)["error"].startswith("disagreement about ingress: model says dropped")
