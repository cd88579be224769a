# SPDX-License-Identifier: Apache-2.0
"""Which of netfilter's rules, as nft(8) writes them, need to see packets between pods."""

from __future__ import annotations

import subprocess

import pytest

from netaccel.datapath import netfilter
from netaccel.datapath.netfilter import Chain, Rule, judge

pytestmark = pytest.mark.root

FORWARD = "type filter hook forward priority 0"


def nft(text: str) -> None:
    done = subprocess.run(["nft", text], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def table(family: str, *chains: str) -> str:
    return "\n".join((f"table {family} t {{", *chains, "}\n"))


def forward(*rules: str, policy: str = "accept") -> str:
    return (
        f"chain f {{ {FORWARD}; policy {policy}; {'; '.join(rules)}; }}"
        if rules
        else (f"chain f {{ {FORWARD}; policy {policy}; }}")
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        table("inet", forward()),
        table("ip", forward("ip saddr 10.0.0.0/8 counter accept", 'iifname { "a", "b" } accept')),
        table("ip6", "chain other { return; }", forward("meta l4proto tcp jump other")),
        table(
            "inet", "chain i { type filter hook input priority 0; policy drop; ct state established accept; }"
        ),
        table("ip", "chain o { type nat hook output priority 0; tcp dport 80 dnat to 10.0.0.1; }"),
        table("inet", "chain alone { drop; }"),
    ],
    ids=["none", "empty", "accepts", "jumps", "input", "output", "reached by nobody"],
)
def test_rules_that_can_be_passed_by(inside: str, text: str) -> None:
    if text:
        nft(text)
    assert netfilter.why_needed() == ""


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (table("inet", forward(policy="drop")), "drops what no rule accepts"),
        (table("inet", forward("ct state invalid drop")), "ct"),
        (table("ip", forward("ip saddr 10.0.0.1 drop")), "drop"),
        (table("ip", forward("ip saddr 10.0.0.1 reject")), "reject"),
        (table("ip", forward("meta mark set 1")), "meta set"),
        (table("ip", forward("ip ttl set 9")), "payload set"),
        (table("ip", forward("limit rate 1/second accept")), "limit"),
        (table("ip", "chain p { type nat hook postrouting priority 100; masquerade; }"), "masq"),
        (
            table("ip", "chain p { type nat hook prerouting priority -100; tcp dport 80 dnat to 10.0.0.1; }"),
            "nat",
        ),
        (table("ip6", "chain p { type nat hook postrouting priority 100; snat to fd00::1; }"), "nat"),
        (table("inet", "chain deep { drop; }", "chain mid { jump deep; }", forward("goto mid")), "deep"),
        (table("bridge", forward("ether saddr 02:00:00:00:00:01 drop")), "chain bridge t f"),
        (table("ip", "chain a { drop; }", forward("tcp dport vmap { 80 : jump a }")), "a map of verdicts"),
    ],
    ids=lambda value: str(value)[-24:],
)
def test_rules_that_need_to_see(inside: str, text: str, word: str) -> None:
    nft(text)
    reason = netfilter.why_needed()
    assert word in reason
    assert reason.startswith("netfilter's chain ")


def test_each_change_is_another_generation(inside: str) -> None:
    before = netfilter.generation()
    assert netfilter.generation() == before
    nft(table("inet", forward()))
    assert netfilter.generation() != before


def test_no_older_iptables_here(inside: str) -> None:
    assert netfilter.why_unknown() == ""


def test_chains_that_lead_to_each_other_end() -> None:
    chains = [Chain("ip", "t", "a", 2), Chain("ip", "t", "b")]
    rules = [Rule("ip", "t", "a", ("b",)), Rule("ip", "t", "b", ("a",))]
    assert judge(chains, rules) == ""
    assert judge(chains, [*rules, Rule("ip", "t", "b", (), "masq")]) != ""
