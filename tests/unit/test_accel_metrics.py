# SPDX-License-Identifier: Apache-2.0
"""Acceleration for Prometheus: what adds up only grows, and Services have a budget."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from accelground import OFF, ON, STATUS, Fake
from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from netaccel.accelerate.metrics import AccelMetrics
from netaccel.accelerate.view import OTHERS, Receipt, Status

DOCS = Path(__file__).parents[2] / "docs/observability.md"


class Page(Collector):
    """What one agent's registry shows of it."""

    def __init__(self, fake: Fake | None, limit: int = 200) -> None:
        self._metrics = AccelMetrics(lambda: fake, lambda: Status("n1", ON, OFF), limit)
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> Sequence[Metric]:
        return ()

    def collect(self) -> list[Metric]:
        return list(self._metrics.families())

    def read(self) -> dict[str, float]:
        """By name and the values of its labels."""
        return {
            "/".join((sample.name.removeprefix("netaccel_accel_"), *sample.labels.values())): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if not sample.name.endswith("_created")
        }


def test_what_status_tells_is_on_the_page() -> None:
    found = Page(Fake()).read()
    assert found["bytes_total/shop/db/socket"] == 64000
    assert found["bytes_total/shop/db/tcp"] == 640
    assert found["messages_total/shop/db/socket"] == 1000
    assert found["messages_total/shop/db/tcp"] == 10
    assert found["bytes_total///socket"] == 100, "of no Service"
    assert found["passes_total/unread"] == 8
    assert (found["pairs/live"], found["pairs/leaving"], found["pairs_capacity"]) == (1, 0, 4096)
    assert (found["promotions_total"], found["evictions_total/rate"]) == (4, 2)
    assert (found["deferred_evictions_total"], found["queued_bytes"]) == (1, 512)
    assert found["refused/may splice"] == 7
    assert (found["selftest/order"], found["selftest/splice"]) == (1, 0)
    assert (found["tier/peer"], found["tier/socket"]) == (1, 1)
    assert found["unreachable_pods"] == 1


def test_without_an_engine_the_tiers_are_told() -> None:
    found = Page(None).read()
    assert (found["tier/peer"], found["tier/socket"], found["pairs/live"]) == (1, 0, 0)


def test_who_has_a_series_keeps_it() -> None:
    fake = Fake()
    page = Page(fake, limit=2)
    first, second = (Receipt(f"shop/s{n}", "shop/a", "shop/b", bytes=10 - n) for n in range(2))
    third = Receipt("shop/s2", "shop/a", "shop/b", bytes=99)
    fake.now = replace(STATUS, receipts=(first, second))
    page.read()
    fake.now = replace(STATUS, receipts=(third, first, second, Receipt(*[OTHERS] * 3, bytes=1)))
    found = page.read()
    assert (found["bytes_total/shop/s0/socket"], found["bytes_total/shop/s1/socket"]) == (10, 9)
    assert found["bytes_total/_other/_other/socket"] == 100


def test_services_beyond_the_budget_share_one_series() -> None:
    receipts = tuple(Receipt(f"shop/s{n}", f"shop/web-{n}", "shop/db-0", bytes=1) for n in range(5))
    found = Page(Fake(replace(STATUS, receipts=receipts)), limit=2).read()
    series = {name: value for name, value in found.items() if re.match(r"bytes_total/.*/socket", name)}
    assert series == {
        "bytes_total/shop/s0/socket": 1,
        "bytes_total/shop/s1/socket": 1,
        "bytes_total/_other/_other/socket": 3,
    }


def test_the_documentation_names_every_metric() -> None:
    text = DOCS.read_text(encoding="utf-8")
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in Page(Fake()).registry.collect()
    }
    assert not {name for name in names if f"`{name}`" not in text}
