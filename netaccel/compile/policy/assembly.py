# SPDX-License-Identifier: Apache-2.0
"""Subjects in use with their tables, and the rows and rules that those name."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping

from netaccel.compile.policy.catalog import Catalog
from netaccel.compile.policy.codes import ALLOW_ROW, FIRST_ROW, FIRST_SUBJECT, ISOLATION_NUMBER, Codes
from netaccel.compile.policy.numbers import Numbers
from netaccel.compile.policy.rows import Fallback, Row, resolve
from netaccel.compile.policy.rules import CompiledPolicy
from netaccel.compile.policy.selectors import Peers
from netaccel.compile.policy.subjects import (
    Class,
    Numbered,
    SubjectKey,
    Table,
    fallback,
    numbered,
    partition,
    table,
)
from netaccel.compile.policy.tables import Image, TableKey
from netaccel.model.policy import NO_RULE, Direction, Mode, PolicyKey, RuleRef
from netaccel.records import PolicyRule

_LAST = (1 << 32) - 1
_REMEMBERED = 50_000
"""Rows that are kept by what they were made of."""


class Assembly:
    """Its maps are those of the same name; ``touched``: keys of each that differ since the last commit."""

    def __init__(self, codes: Codes, catalog: Catalog, peers: Peers, rule_ids: int) -> None:
        """``rule_ids``: entries of ``policy_rules`` and ``rule_counters``."""
        self.rules: dict[int, PolicyRule] = {}
        self.rows: dict[int, Row] = codes.fixed_rows()
        self.peers: dict[TableKey, Mapping[int, int]] = {}
        self.tables: dict[TableKey, Table] = {}
        self.touched_rules: set[int] = set()
        self.touched_rows: set[int] = set(self.rows)
        self.touched_peers: set[TableKey] = set()
        self.subjects: Numbers[SubjectKey] = Numbers("subjects", FIRST_SUBJECT, _LAST)
        self.row_ids: Numbers[Row] = Numbers("rows", FIRST_ROW, _LAST)
        self.rule_ids: Numbers[RuleRef] = Numbers("rules", 1, rule_ids - 1)
        self.by_policy: dict[PolicyKey, set[SubjectKey]] = {}
        self.row_entries = sum(map(len, self.rows.values()))
        """Entries of all rows."""
        self.peer_entries = 0
        """Entries of all tables."""
        self._codes, self._catalog, self._peers = codes, catalog, peers
        self._fixed = {content: row for row, content in self.rows.items()}
        self._uses: Counter[int] = Counter()
        self._users: Counter[SubjectKey] = Counter()
        self._refs: dict[PolicyKey, set[RuleRef]] = {}
        self._row_wishes: dict[Row, int] = {}
        self._rule_wishes: dict[RuleRef, int] = {}
        self._memo: OrderedDict[tuple[Class, Fallback], Row] = OrderedDict()  # the oldest first
        self._numbered: dict[tuple[PolicyKey, Direction], Numbered] = {}

    def adopt(self, image: Image) -> None:
        """Take numbers from the maps where they fit, and leave the others alone until the next commit."""
        kinds = {number: kind for kind, number in self._codes.kinds.items()}
        self._row_wishes = {content: row for row, content in image.rows.items() if row >= FIRST_ROW}
        self._rule_wishes = {
            RuleRef(
                PolicyKey(kinds[rule.kind], rule.namespace, rule.name),
                Direction(rule.direction),
                NO_RULE if rule.action == self._codes.isolation else rule.number,
            ): number
            for number, rule in image.rules.items()
            if rule.kind in kinds and rule.direction in (0, 1)
        }
        self.rule_ids.hold(image.rules)
        self.row_ids.hold(image.rows)
        self.row_ids.hold(row for masks in image.peers.values() for row in masks)
        self.subjects.hold(subject for subject, _ in image.peers)
        for endpoint in image.endpoints.values():
            self.subjects.hold((endpoint.subject,))
            self.row_ids.hold((endpoint.ingress_row, endpoint.egress_row))

    def commit(self) -> None:
        """All that was touched is written."""
        for numbers in (self.rule_ids, self.row_ids, self.subjects):
            numbers.commit()
        for touched in (self.touched_rules, self.touched_rows, self.touched_peers):
            touched.clear()

    # --------------------------------------------------------------- subjects

    def join(self, key: SubjectKey, wish: int | None) -> bool:
        """One more pod has this subject; whether it is a new one, whose tables are to be built."""
        self._users[key] += 1
        if self._users[key] > 1:
            return False
        self.subjects.get(key, wish)
        for policy in {*key.ingress, *key.egress}:
            self.by_policy.setdefault(policy, set()).add(key)
            self.name_rules(policy)
        return True

    def leave(self, key: SubjectKey) -> None:
        """One pod less has this subject."""
        self._users[key] -= 1
        if self._users[key]:
            return
        del self._users[key]
        number = self.subjects.of[key]
        for direction in Direction:
            self._replace((number, direction), None)
        self.subjects.free(key)
        for policy in {*key.ingress, *key.egress}:
            using = self.by_policy[policy]
            using.discard(key)
            if not using:
                del self.by_policy[policy]
            self.name_rules(policy)

    def __contains__(self, key: SubjectKey) -> bool:
        return key in self._users

    def table(self, key: SubjectKey, direction: Direction) -> Table:
        """A subject's table."""
        return self.tables[self.subjects.of[key], direction]

    def build(self, key: SubjectKey, direction: Direction) -> None:
        """Work out a subject's table."""
        policies = [self._numbered[policy, direction] for policy in key.policies(direction)]
        where = (self.subjects.of[key], direction)
        if not policies:
            self._replace(where, Table(ALLOW_ROW))
            return
        isolation = fallback(policies)
        rules = [rule for one in policies for rule in one.rules]
        classes = partition(rules, direction, self._peers, key.ports)
        self._replace(where, table(classes, lambda one: self._row(one, isolation)))

    def _replace(self, where: TableKey, new: Table | None) -> None:
        old = self.tables.pop(where, None)
        if new is not None:
            self.tables[where] = new
            self.peers[where] = new.peers
            for row in (new.default, *new.peers):
                self._uses[row] += 1
            self.peer_entries += sum(mask.bit_count() for mask in new.peers.values())
        else:
            self.peers.pop(where, None)
        if old is not None:
            for row in (old.default, *old.peers):
                self._uses[row] -= 1
                if not self._uses[row]:
                    self._drop_row(row)
            self.peer_entries -= sum(mask.bit_count() for mask in old.peers.values())
        self.touched_peers.add(where)

    # ------------------------------------------------------------ rows, rules

    def _row(self, one: Class, isolation: Fallback) -> int:
        made_of = (one, isolation)
        content = self._memo.get(made_of)
        if content is None:
            if len(self._memo) >= _REMEMBERED:
                self._memo.popitem(last=False)
            content = self._memo[made_of] = resolve(one.rules, isolation, one.named, self._codes.actions)
        fixed = self._fixed.get(content)
        if fixed is not None:
            return fixed
        row = self.row_ids.of.get(content)
        if row is None:
            row = self.row_ids.get(content, self._row_wishes.get(content))
            self.rows[row] = content
            self.row_entries += len(content)
            self.touched_rows.add(row)
        return row

    def _drop_row(self, row: int) -> None:
        del self._uses[row]
        if row >= FIRST_ROW:
            content = self.rows.pop(row)
            self.row_entries -= len(content)
            self.row_ids.free(content)
            self.touched_rows.add(row)

    def name_rules(self, key: PolicyKey) -> None:
        """Give the rules of a policy ids as long as a subject has it."""
        policy = self._catalog.policies.get(key)
        wanted = set(_refs(policy)) if policy is not None and key in self.by_policy else set()
        known = self._refs.get(key, set())
        for ref in known - wanted:
            number = self.rule_ids.of[ref]
            self.rule_ids.free(ref)
            del self.rules[number]
            self.touched_rules.add(number)
        if policy is None or not wanted:
            self._refs.pop(key, None)
            for direction in Direction:
                self._numbered.pop((key, direction), None)
            return
        self._refs[key] = wanted
        for ref in sorted(wanted, key=lambda one: (one.direction, one.number)):
            number = self.rule_ids.get(ref, self._rule_wishes.get(ref))
            record = self._record(policy, ref)
            if self.rules.get(number) != record:
                self.rules[number] = record
                self.touched_rules.add(number)
        for direction in Direction:
            old, read = self._numbered.get((key, direction)), policy.rules[direction]
            if old is None or not read or old.read is not read:  # there is one empty tuple for all policies
                self._numbered[key, direction] = numbered(policy, direction, self.rule_ids.of, self._peers)

    def _record(self, one: CompiledPolicy, ref: RuleRef) -> PolicyRule:
        codes, key = self._codes, ref.policy
        if ref.number == NO_RULE:
            action, number = codes.isolation, ISOLATION_NUMBER
        else:
            action, number = codes.written[one.rules[ref.direction][ref.number].written], ref.number
        monitored = int(one.policy.mode is Mode.MONITOR)
        return PolicyRule(
            key.namespace, key.name, codes.kinds[key.kind], ref.direction, action, monitored, number
        )


def _refs(one: CompiledPolicy) -> Iterator[RuleRef]:
    for direction in Direction:
        for rule in one.rules[direction]:
            yield RuleRef(one.key, direction, rule.number)
        if direction in one.policy.isolates:
            yield RuleRef(one.key, direction, NO_RULE)
