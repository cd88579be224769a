# SPDX-License-Identifier: Apache-2.0
"""Figures out of a /metrics page. Pure."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families


def total(page: str, name: str, **labels: str) -> float:
    """Sum of all samples of this name that carry these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def lines(page: str, *names: str) -> list[str]:
    """Lines of these samples that are not zero."""
    return [
        line
        for line in page.splitlines()
        if line.startswith(names) and not line.startswith("#") and float(line.rsplit(" ", 1)[1])
    ]
