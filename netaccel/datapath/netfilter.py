# SPDX-License-Identifier: Apache-2.0
"""Whether netfilter's rules need to see what pods of one node send each other (linux/netfilter/nf_tables.h).

Asked before packets go past the node's stack, and so past netfilter. What is not surely harmless counts as
needed: a rule on the way of forwarded packets that does more than accept what it matches, a policy that
drops, anything that can't be read.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from netaccel.datapath.nlmsg import NETFILTER, ask, attributes_of, dump, each_attribute
from netaccel.errors import DatapathError

_NFTABLES = 10 << 8  # NFNL_SUBSYS_NFTABLES
_GETCHAIN, _GETRULE, _GETGEN = _NFTABLES | 4, _NFTABLES | 7, _NFTABLES | 16
_NO_NFTABLES = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)  # a kernel without them
_GENERATION = 1  # NFTA_GEN_ID
_FAMILY_ALL = struct.pack("=BBH", 0, 0, 0)  # struct nfgenmsg: NFPROTO_UNSPEC
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}
_ELSEWHERE = {"ip": (1, 3), "ip6": (1, 3), "inet": (1, 3), "bridge": (1, 3)}  # hooks input, output
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 1, 3, 4, 5
_HOOK_NUMBER = 1
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_IMMEDIATE_REGISTER, _IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE, _VERDICT_CHAIN = 1, 2, 2, 1, 2
_LOOKUP_REGISTER = 3
_DROP, _ACCEPT, _JUMP, _GOTO = 0, 1, -3, -4
_COMPAT_NAME = 1  # NFTA_MATCH_NAME, NFTA_TARGET_NAME
_WRITES = {"meta": 3, "payload": 5, "exthdr": 7, "ct": 4}  # the attribute that names a register to store from
_MATCHES = frozenset(("meta", "payload", "exthdr", "cmp", "bitwise", "range", "fib", "rt", "counter", "log"))
_STATEFUL = frozenset(
    ("conntrack", "state", "connmark", "connbytes", "connlimit", "recent", "hashlimit", "limit")
)
_SERVICES = (["TCP"], ["UDP"], ["SCTP"], ["FWM"])  # how /proc/net/ip_vs begins a line of one
_LEGACY = ("ip_tables_names", "ip6_tables_names", "arp_tables_names")


class Chain(NamedTuple):
    """A chain; ``hook`` None: no packet comes to it but from other chains."""

    family: str
    table: str
    name: str
    hook: int | None = None
    drops: bool = False
    """Its policy."""


class Rule(NamedTuple):
    """A rule: where it goes on to, and what it does that packets may not miss ("" for nothing)."""

    family: str
    table: str
    chain: str
    leads_to: tuple[str, ...] = ()
    does: str = ""


def why_needed() -> str:
    """Why netfilter has to see packets between this namespace's pods; "" where it hasn't. Blocking.

    DatapathError where the kernel refuses to tell.
    """
    try:
        return judge(tuple(_chains()), tuple(_rules()))
    except DatapathError as error:
        if error.errno in _NO_NFTABLES:
            return ""
        raise DatapathError(f"netfilter can't be asked: {error}", error.errno or 0) from error


def generation() -> int:
    """Another one after each change of what :func:`why_needed` reads; cheap. DatapathError."""
    try:
        body = ask("netfilter's generation", _GETGEN, _FAMILY_ALL, NETFILTER)[0]
    except DatapathError as error:
        if error.errno in _NO_NFTABLES:
            return 0
        raise
    return _number(attributes_of(body, len(_FAMILY_ALL))[_GENERATION])


def why_unknown() -> str:
    """What else translates or filters, unseen: the older iptables, IPVS. "" where there is none."""
    try:
        if any(line.split()[:1] in _SERVICES for line in _lines("ip_vs")):
            return "IPVS has services, whose answers it has to translate back"
        for name in _LEGACY:
            if tables := _lines(name):
                return f"iptables (legacy) has tables ({', '.join(tables)}), whose rules can't be read"
    except OSError as error:
        return f"{error.filename} can't be read: {error.strerror}"
    return ""


def _lines(name: str) -> list[str]:
    """Of a file of this thread's namespace; none where the kernel has no such file. OSError."""
    try:
        return Path("/proc/thread-self/net", name).read_text().splitlines()
    except FileNotFoundError:
        return []


def judge(chains: Collection[Chain], rules: Collection[Rule]) -> str:
    """What :func:`why_needed` says of nftables' chains and rules. Pure."""
    by_chain: dict[tuple[str, str, str], list[Rule]] = {}
    for rule in rules:
        by_chain.setdefault(rule[:3], []).append(rule)
    bases = [chain for chain in chains if chain.hook is not None and _is_on_the_way(chain)]
    for chain in bases:
        if chain.drops:
            return f"{_name(chain[:3])} drops what no rule accepts"
    waiting, seen = [chain[:3] for chain in bases], set()
    while waiting:
        key = waiting.pop()
        if key in seen:
            continue
        seen.add(key)
        for rule in by_chain.get(key, ()):
            if rule.does:
                return f"{_name(key)} has a rule that packets may not miss ({rule.does})"
            waiting += [(*key[:2], name) for name in rule.leads_to]
    return ""


def _is_on_the_way(chain: Chain) -> bool:
    return chain.family != "arp" and chain.hook not in _ELSEWHERE.get(chain.family, ())


def _name(key: tuple[str, str, str]) -> str:
    return f"netfilter's chain {' '.join(key)}"


# -------------------------------------------------------------------- decoding


def _chains() -> Iterator[Chain]:
    for body in _dump("chains", _GETCHAIN):
        found = attributes_of(body, len(_FAMILY_ALL))
        hook = found.get(_CHAIN_HOOK)
        number = None if hook is None else _number(attributes_of(hook, 0)[_HOOK_NUMBER])
        drops = _CHAIN_POLICY in found and _number(found[_CHAIN_POLICY]) == _DROP
        yield Chain(_family(body), _text(found[_CHAIN_TABLE]), _text(found[_CHAIN_NAME]), number, drops)


def _rules() -> Iterator[Rule]:
    for body in _dump("rules", _GETRULE):
        found = attributes_of(body, len(_FAMILY_ALL))
        leads_to, does = _read(found.get(_RULE_EXPRESSIONS, b""))
        where = _family(body), _text(found[_RULE_TABLE]), _text(found[_RULE_CHAIN])
        yield Rule(*where, tuple(leads_to), does)


def _dump(what: str, kind: int) -> list[bytes]:
    return dump(what, kind, _FAMILY_ALL, NETFILTER)


def _read(expressions: bytes) -> tuple[list[str], str]:
    """Chains that a rule leads to, and what it does."""
    leads_to: list[str] = []
    for _, element in each_attribute(expressions):
        found = attributes_of(element, 0)
        name, data = _text(found[_EXPRESSION_NAME]), attributes_of(found.get(_EXPRESSION_DATA, b""), 0)
        if name == "immediate":
            code, chain = _verdict(data)
            if code in (_JUMP, _GOTO):
                leads_to.append(chain)
            elif code is not None and (code == _DROP or code > _ACCEPT):
                return leads_to, "drop" if code == _DROP else "queue"
        elif does := _effect(name, data):
            return leads_to, does
    return leads_to, ""


def _verdict(data: Mapping[int, bytes]) -> tuple[int | None, str]:
    """Code and chain of an immediate expression's verdict; None where it sets a register."""
    if _number(data.get(_IMMEDIATE_REGISTER, bytes(4))):
        return None, ""
    verdict = attributes_of(attributes_of(data.get(_IMMEDIATE_DATA, b""), 0).get(_DATA_VERDICT, b""), 0)
    code: int = struct.unpack(">i", verdict[_VERDICT_CODE])[0]
    return code, _text(verdict.get(_VERDICT_CHAIN, b""))


def _effect(name: str, data: Mapping[int, bytes]) -> str:
    """What an expression does beside matching; "" for nothing."""
    if name == "match":
        kind = _text(data[_COMPAT_NAME])
        return kind if kind in _STATEFUL else ""
    if name == "target":
        return _text(data[_COMPAT_NAME])
    if name == "lookup":
        return "a map of verdicts" if not _number(data.get(_LOOKUP_REGISTER, b"\0\0\0\1")) else ""
    if name not in _MATCHES:
        return name
    return f"{name} set" if _WRITES.get(name) in data else ""


def _family(body: bytes) -> str:
    return _FAMILIES.get(body[0], str(body[0]))


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, "big")


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")
