# SPDX-License-Identifier: Apache-2.0
"""The tour's steps about policy: watched first, then enforced, then explained."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from netaccel.lab.documents import replace
from netaccel.lab.handle import Lab, wait_for
from netaccel.lab.tour import Shown, hold

_NAME = "web-clients"
_FILE = f"{_NAME}.yaml"
_POLICY = f"TrafficPolicy default/{_NAME}"
_WEB_NODE = "node-1"
_POLICY_TEXT = """\
# Only web's own pods may open connections to web. With mode Monitor it says so, and no packet feels it.
apiVersion: netaccel.io/v1alpha1
kind: TrafficPolicy
metadata: {{name: web-clients, namespace: default}}
spec:
  mode: {mode}
  subject:
    pods: {{matchLabels: {{app: web}}}}
  ingress:
    - action: Allow
      from: [{{podSelector: {{matchLabels: {{app: web}}}}}}]
"""
_STRANGER, _FRIEND = "pod:default/echo-0", "pod:default/web-1"
_SERVICE = "service:default/web:80"
_SILENCE = 28  # curl's exit status for a time-out
_DENIED = 3  # exit status of netaccel explain
_SHOWN = 8  # lines of its answer: the question and the first backend


class PolicyTour:
    """``urls``: of the Service web, one a family."""

    def __init__(self, lab: Lab, folder: Path, urls: tuple[str, str]) -> None:
        self.lab, self.folder, self.urls = lab, folder, urls

    def steps(self, run: str) -> Iterator[tuple[str, str, Callable[[], Shown]]]:
        """Title, what to type for the same (``run``: in a target of the lab), and the step."""
        yield (
            "A policy is only watched at first",
            f"{run} {_WEB_NODE} -- netaccel flows --verdict audited",
            self.monitor,
        )
        yield (
            "Then it is enforced",
            f"{run} {_WEB_NODE} -- netaccel flows --verdict dropped",
            self.enforce,
        )
        yield (
            "And explained, by the policies' words and by the programs",
            f"{run} node-3 -- netaccel explain --manifests DIR --by both {_STRANGER} {_SERVICE}",
            self.explain,
        )

    def monitor(self) -> Shown:
        """The stranger is served, and each of its connections is audited."""
        self._write("Monitor")

        def audited() -> list[dict[str, Any]]:
            for url in self.urls:
                self.lab.curl(_STRANGER, f"{url}/")
            return self._flows("audited")

        found = wait_for(audited, f"{_POLICY} in force and its verdicts told", 15)
        return Shown(
            f"{len(found)} connections of echo-0 were served; {_POLICY} says that it would have dropped them",
            (*self._lines("audited"), *self._listed()),
        )

    def enforce(self) -> Shown:
        """The stranger gets no answer, friends do."""
        self._write("Enforce")
        wait_for(lambda: self._status(_STRANGER, self.urls[0]) == _SILENCE, "the policy in force", 15)
        for url in self.urls:
            status = self._status(_STRANGER, url)
            hold(status == _SILENCE, f"echo-0 and {url}: curl ended with {status}, not by a time-out")
            self.lab.curl(_FRIEND, f"{url}/")
        wait_for(lambda: self._flows("dropped"), "drops told", 5)
        return Shown("echo-0 gets no answer any more, web-1 still does", self._lines("dropped"))

    def explain(self) -> Shown:
        """Which rule it is."""
        done = self.lab.run("node-3", "netaccel", "explain", *self._offline(), _STRANGER, _SERVICE)
        hold(done.returncode == _DENIED, done.stderr.strip() or f"exit status {done.returncode}")
        hold(_NAME in done.stdout, f"the policy is not named: {done.stdout}")
        self._write("")
        wait_for(lambda: not self._status(_STRANGER, self.urls[0]), "the policy gone", 15)
        lines = tuple(line for line in done.stdout.splitlines()[:_SHOWN] if line)
        return Shown("denied, and by which object; without it echo-0 is served again", lines)

    def _offline(self) -> tuple[str, ...]:
        return ("--manifests", str(self.lab.paths.rendered), "--by", "both")

    def _write(self, mode: str) -> None:
        if mode:
            replace(self.folder / _FILE, _POLICY_TEXT.format(mode=mode).encode())
        else:
            (self.folder / _FILE).unlink()

    def _status(self, target: str, url: str) -> int:
        return self.lab.run(target, "curl", "-s", "-o", "/dev/null", "-m", "1", f"{url}/").returncode

    def _flows(self, verdict: str) -> list[dict[str, Any]]:
        """Records of this verdict that name the policy, of the node where web is."""
        records = [json.loads(line) for line in self._ask(verdict, "-o", "json").splitlines()]
        return [record for record in records if _NAME in _names(record)]

    def _listed(self) -> tuple[str, ...]:
        done = self.lab.run(_WEB_NODE, "netaccel", "policy", "list")
        hold(done.returncode == 0, done.stderr.strip())
        return tuple(done.stdout.splitlines())

    def _lines(self, verdict: str) -> tuple[str, ...]:
        return tuple(self._ask(verdict, "--last", "2").splitlines())

    def _ask(self, verdict: str, *options: str) -> str:
        done = self.lab.run(_WEB_NODE, "netaccel", "flows", "--verdict", verdict, *options)
        hold(done.returncode == 0, done.stderr.strip())
        return done.stdout


def _names(record: dict[str, Any]) -> set[str]:
    """Names of the policies that gave a record's verdict, in force and in monitor mode."""
    return {record[rule].get("name", "") for rule in ("rule", "shadow_rule") if rule in record}
