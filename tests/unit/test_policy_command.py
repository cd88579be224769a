# SPDX-License-Identifier: Apache-2.0
"""``netaccel policy``: of an agent made up of a world, of maps and of a record; and of files alone."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from netaccel.api.policy import PolicyRoutes
from netaccel.api.server import application, serving
from netaccel.cli import netaccel
from netaccel.commands import policy as policy_command
from netaccel.datapath.abi import Abi
from netaccel.datapath.bpfobject import OBJECTS
from netaccel.explain.manifests import read_world
from netaccel.explain.policies import Decided, Facts, decided, policy_views
from netaccel.model.address import parse_address
from netaccel.model.event import ObjectKey
from netaccel.model.plain import told
from netaccel.model.policy import NO_RULE, Direction, Kind, PolicyKey, RuleRef
from netaccel.observe.edges.edge import Edge, EdgeKey, End, Verdict, Where
from netaccel.observe.edges.reader import Seen
from netaccel.observe.edges.recorder import EdgeRecorder
from netaccel.observe.edges.store import Limits, Store
from netaccel.reconcile.status import Condition, State
from netaccel.records import PolicyRule, Traffic

NOW = 4_000_000_000.0  # far ahead: --since 24h begins before it
CLUSTER = """
apiVersion: v1
kind: Node
metadata: {name: node-1}
---
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec: {nodeName: node-1, containers: [{name: web, image: web}]}
status: {podIP: 10.0.0.2, podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
spec: {nodeName: node-2, containers: [{name: db, image: db}]}
status: {podIP: 10.0.0.3, podIPs: [{ip: 10.0.0.3}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}]}]
---
apiVersion: netaccel.io/v1alpha1
kind: TrafficPolicy
metadata: {name: web, namespace: shop}
spec:
  mode: Monitor
  subject: {pods: {matchLabels: {app: web}}}
  egress:
    - {name: no metadata, action: Drop, to: [{cidr: 169.254.169.254/32}]}
    - {action: Allow, to: [{cidr: 169.254.169.254/32}]}
"""
DENY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}, policyTypes: [Egress]}
"""
NETWORK = PolicyKey(Kind.NETWORK, "shop", "db")
TRAFFIC = PolicyKey(Kind.TRAFFIC, "shop", "web")
WEB = End(Where.POD, parse_address("10.0.0.2"), "shop", "web-0", "node-1", (("app", "web"),))
METADATA = End(Where.WORLD, parse_address("169.254.169.254"))
RULE = RuleRef(TRAFFIC, Direction.EGRESS, 0)
EDGE = Edge(EdgeKey(WEB, METADATA, 6, 80, Direction.EGRESS, Verdict.AUDITED, RULE), NOW - 60, NOW, 3)
ICMP = Edge(EdgeKey(WEB, METADATA, 1, 8 << 8, Direction.EGRESS, Verdict.AUDITED, RULE), NOW - 90, NOW - 1)


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(netaccel, arguments, prog_name="netaccel", input=stdin)


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "cluster.yaml").write_text(CLUSTER)
    return folder


@pytest.fixture
def deny(tmp_path: Path) -> Path:
    file = tmp_path / "deny.yaml"
    file.write_text(DENY)
    return file


@pytest.fixture
def edges(tmp_path: Path) -> Path:
    store = Store(tmp_path / "edges.db", Limits())
    store.open(NOW - 3600)
    store.write([EDGE, ICMP], NOW)
    store.close()
    return store.path


@pytest.fixture
def agent(manifests: Path, edges: Path) -> Iterator[str]:
    """ADDRESS:PORT of the HTTP server of an agent of node-1."""
    world = read_world(manifests).world
    world.node_name = "node-1"
    recorder = EdgeRecorder(edges, Limits(), wall=lambda: NOW)
    counts = [
        Decided(RULE, "audited", 3, 180),
        Decided(RuleRef(TRAFFIC, Direction.EGRESS, NO_RULE), "audited", 1, 60),
        Decided(RuleRef(NETWORK, Direction.INGRESS, 0), "allowed", 5, 300),
    ]
    listener = socket.create_server(("127.0.0.1", 0))
    at = f"127.0.0.1:{listener.getsockname()[1]}"
    begun, done = threading.Event(), threading.Event()

    async def serve() -> None:
        routes = PolicyRoutes(lambda: told(world), recorder, lambda: Facts("node-1"), lambda: counts)
        async with serving(application(_Nothing(), policy=routes), listener):
            begun.set()
            await asyncio.to_thread(done.wait)
        recorder.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert begun.wait(60)
    yield at
    done.set()
    thread.join(10)


class _Nothing:
    """An agent's other answers, which nobody asks for here."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


# --------------------------------------------------------------- list and show


def test_list_says_what_is_in_force_whom_it_selects_and_what_it_decided(agent: str) -> None:
    result = run("policy", "list", "--http", agent, "-o", "json")
    assert result.exit_code == 0, result.output
    network, traffic = json.loads(result.output)
    assert (network["name"], network["state"], network["pods"]) == (
        "db",
        "idle",
        {"here": 0, "known": 1, "nodes": 1},
    )
    assert (traffic["mode"], traffic["state"]) == ("Monitor", "in force")
    assert traffic["counts"] == {"allowed": 0, "dropped": 0, "audited": 4}
    assert (traffic["first"], traffic["last"]) == (NOW - 90, NOW)
    assert traffic["warnings"] == ["spec.egress[1]: egress[0] always decides before it: it never does"]
    table = run("policy", "list", "--http", agent, "-n", "shop").output
    assert "TrafficPolicy  shop/web  Monitor  in force" in " ".join(table.split("\n")).replace("   ", "  ")
    assert run("policy", "list", "--http", agent, "-n", "bank").output == "no policies\n"


def files(manifests: Path, *words: str) -> str:
    """What `netaccel policy` says of files alone, one of whose policies can't be used."""
    (manifests / "bad.yaml").write_text(DENY.replace("Egress", "Sideways"))
    arguments = ["policy", *words, "--manifests", str(manifests)]
    return CliRunner().invoke(netaccel, arguments).stdout


def test_the_list_fits_a_terminal_and_sentences_follow_it(manifests: Path) -> None:
    table, said = files(manifests, "list").split("\n\n")
    assert max(map(len, table.splitlines())) <= 120
    refused = ["NetworkPolicy", "shop/deny", "Enforce", "refused", "0/1", "0"]
    assert refused in [line.split()[:6] for line in table.splitlines()]
    why = "spec.policyTypes[0]: 'Sideways' is not a value of it: give Ingress or Egress"
    by = "NetworkPolicy shop/deny, which was refused and denies for that,"
    assert said.splitlines()[0] == (
        f"NetworkPolicy shop/deny: refused: {why}; what it selects is denied meanwhile"
    )
    assert f"warning: spec.egress[1]: {by} always decides before it: it never does" in said


@pytest.mark.parametrize(
    ("ago", "text"), [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")]
)
def test_the_list_tells_ages_as_kubectl_does(ago: float, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: NOW)
    assert policy_command._ago(NOW - ago) == text


def test_show_of_a_refused_policy_has_no_rule_that_nobody_wrote(manifests: Path) -> None:
    shown = files(manifests, "show", "netpol", "shop/deny")
    assert ["ingress", "refusal", "-", "Refusal", "0", "0"] in [line.split() for line in shown.splitlines()]
    assert "ingress[0]" not in shown


def test_show_has_each_rule_with_its_counts(agent: str) -> None:
    result = run("policy", "show", "tp", "shop/web", "--http", agent)
    assert result.exit_code == 0, result.output
    assert "would have denied flows from 2096-10-02T07:05:10Z" in result.output
    assert "selects 1 pods here, 1 on 1 nodes" in result.output
    lines = [line.split() for line in result.output.splitlines()]
    assert ["egress[0]", "no", "metadata", "Drop", "3", "180"] in lines
    assert ["egress", "isolation", "-", "Isolation", "1", "60"] in lines


def test_show_of_what_is_not_there_is_one_line(agent: str) -> None:
    result = run("policy", "show", "netpol", "web", "--http", agent)
    assert (result.exit_code, result.output) == (
        1,
        "netaccel: no NetworkPolicy web: `netaccel policy list` shows all\n",
    )
    assert run("policy", "show", "pod", "web").exit_code == 2


def test_files_are_enough_to_see_what_is_selected_and_odd(manifests: Path) -> None:
    (manifests / "bad.yaml").write_text(DENY.replace("Egress", "Sideways"))
    result = CliRunner().invoke(netaccel, ["policy", "list", "--manifests", str(manifests), "-o", "json"])
    assert result.exit_code == 0
    found = {view["name"]: view for view in json.loads(result.stdout)}
    assert found["db"]["pods"]["known"] == 1
    assert found["deny"]["state"] == "refused"
    assert "policyTypes" in result.stderr


def test_no_agent_is_one_line() -> None:
    result = run("policy", "list", "--http", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "no agent listens at 127.0.0.1:1" in result.output


# ------------------------------------------------------------------- the views


def abi() -> Abi:
    return Abi.from_elf((OBJECTS / "sock_cgroup.o").read_bytes())


def test_what_a_rule_decided_is_called_by_its_action_and_its_policys_mode() -> None:
    names = abi()
    c = names.constants

    def entry(action: str, monitor: int = 0, number: int = 0) -> PolicyRule:
        return PolicyRule(
            "shop", "web", c["KIND_TRAFFIC_POLICY"], c["POLICY_EGRESS"], c[action], monitor, number
        )

    rules = {
        1: entry("RULE_ALLOW"),
        2: entry("RULE_DROP"),
        3: entry("RULE_REJECT", monitor=1),
        4: entry("RULE_MONITOR"),
        5: entry("RULE_ISOLATION", number=0xFFFF),
        6: entry("RULE_ISOLATION", monitor=1, number=0xFFFF),
        7: entry("RULE_PASS"),
    }
    found = decided(rules, {1: Traffic(2, 120)}, names)
    assert [one.decision for one in found] == [
        *("allowed", "dropped", "audited", "audited", "dropped", "audited", "allowed")
    ]
    assert found[0] == Decided(RuleRef(TRAFFIC, Direction.EGRESS, 0), "allowed", 2, 120)
    assert found[4].rule.number == NO_RULE


@pytest.mark.parametrize(
    ("facts", "state", "reason"),
    [
        (Facts("node-1", decided=[]), "waiting", "maps don't have it yet"),
        (Facts("node-1", decided=[Decided(RULE, "audited", 0, 0)]), "in force", ""),
        (Facts("node-1", decided=[], enforcing=False), "off", "see the setting `policy`"),
        (Facts("node-7", decided=[]), "idle", ""),
        (
            Facts(
                "node-1", {ObjectKey("TrafficPolicy", "shop", "web"): Condition(State.REJECTED, ("no room",))}
            ),
            "refused",
            "no room",
        ),
        (
            Facts(
                "node-1", {ObjectKey("TrafficPolicy", "shop", "web"): Condition(State.DEGRADED, ("less",))}
            ),
            "degraded",
            "less",
        ),
    ],
)
def test_a_state_says_what_the_kernel_has(manifests: Path, facts: Facts, state: str, reason: str) -> None:
    views = policy_views(read_world(manifests).world, facts)
    view = next(view for view in views if view["name"] == "web")
    assert view["state"] == state
    assert reason in "; ".join(view["reasons"])


def test_a_policy_that_was_refused_whole_is_in_the_list(manifests: Path) -> None:
    key = ObjectKey("NetworkPolicy", "shop", "bad")
    facts = Facts("node-1", {key: Condition(State.REJECTED, ("spec: nonsense",))})
    view = policy_views(read_world(manifests).world, facts)[-1]
    assert (view["name"], view["state"]) == ("bad", "refused")
    assert view["reasons"] == ["spec: nonsense; it has no effect"]


def test_what_is_on_record_is_told_of_denials_alone(manifests: Path) -> None:
    seen = [(RULE, Verdict.ALLOWED, Seen(1.0, 9.0, 1)), (RULE, Verdict.AUDITED, Seen(3.0, 4.0, 1))]
    views = policy_views(read_world(manifests).world, Facts("node-1", seen=seen))
    assert [(view["first"], view["last"]) for view in views] == [(None, None), (3.0, 4.0)]


# --------------------------------------------------------------------- preview


def test_preview_asks_the_agent_and_tells_scripts_that_something_would_break(agent: str, deny: Path) -> None:
    result = run("policy", "preview", "-f", str(deny), "--http", agent)
    assert result.exit_code == 3, result.output
    first, *rest = result.output.splitlines()
    assert first == (
        "2 edges recorded from 2096-10-02T06:06:40Z to 2096-10-02T07:06:40Z, 2 of pods that these policies"
        " are about: 2 would change, 2 would break"
    )
    newest, older = (line.split() for line in rest[-2:])
    assert newest[:6] == ["2096-10-02T07:06:40Z", "3", "shop/web-0", "169.254.169.254", "80/TCP", "audited"]
    assert newest[6:] == ["audited", "denied", "NetworkPolicy", "shop/deny", "egress", "isolation", "-"]
    assert older[4:6] == ["ICMP", "8/0"]


def test_preview_from_files_alone(manifests: Path, edges: Path, deny: Path) -> None:
    ask = ("policy", "preview", "-f", str(deny), "--manifests", str(manifests), "--edges", str(edges))
    result = run(*ask, "-o", "json")
    assert result.exit_code == 3
    found = json.loads(result.output)
    assert found["policies"] == ["NetworkPolicy shop/deny"]
    assert found["window"] == {"since": NOW - 3600, "until": NOW}
    assert (found["edges"], found["touched"], found["breaking"]) == (2, 2, 2)
    change = found["changes"][0]
    assert (change["now"]["verdict"], change["then"]["verdict"]) == ("audited", "denied")
    assert change["then"]["rule"]["name"] == "deny"
    assert change["source"]["name"] == "web-0"


def test_what_breaks_nothing_is_status_0(manifests: Path, edges: Path, tmp_path: Path) -> None:
    ask = ("policy", "preview", "--manifests", str(manifests), "--edges", str(edges), "-f")
    monitor = CLUSTER.rpartition("---")[2]
    same = tmp_path / "same.yaml"
    same.write_text(monitor)
    assert run(*ask, str(same)).exit_code == 0
    assert run(*ask, str(same), "--enforced").exit_code == 3, "in force it would deny what it only told of"
    gone = run(*ask, str(same), "--delete", "-o", "json")
    assert gone.exit_code == 0
    assert [c["then"]["verdict"] for c in json.loads(gone.output)["changes"]] == ["allowed", "allowed"]


def test_policies_come_from_standard_input_too(manifests: Path, edges: Path) -> None:
    ask = ("policy", "preview", "--manifests", str(manifests), "--edges", str(edges), "-f", "-")
    assert run(*ask, stdin=DENY).exit_code == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (DENY.replace("Egress", "Sideways"), "spec.policyTypes"),
        ("kind: [", "line"),
        ("", "holds no policy"),
        ("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n", "holds no policy"),
    ],
)
def test_a_file_that_can_not_be_used_is_one_line(manifests: Path, edges: Path, text: str, said: str) -> None:
    ask = ("policy", "preview", "--manifests", str(manifests), "--edges", str(edges), "-f", "-")
    result = run(*ask, stdin=text)
    assert result.exit_code == 1
    assert said in result.output.splitlines()[-1]


def test_a_since_or_file_that_is_none_is_said(manifests: Path, edges: Path, deny: Path) -> None:
    ask = ("policy", "preview", "-f", str(deny), "--manifests", str(manifests), "--edges")
    assert "since" in run(*ask, str(edges), "--since", "tea-time").output
    assert "no such file" in run(*ask, "/nonexistent.db").output
