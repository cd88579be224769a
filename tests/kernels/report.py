# SPDX-License-Identifier: Apache-2.0
"""What the guests said, judged and drawn: a column for each kernel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.kernels.packages import Kernel

SINCE = {
    "accel_sockets": (6, 12),
    "probe_destroy": (6, 5),
    "sock_destroy": (6, 5),
    "tc_peer": (5, 12),
    "trace_drops": (5, 17),
}
"""Objects that older kernels may refuse, because user space does the work there."""

Result = Mapping[str, Any]


class Judged(NamedTuple):
    """One kernel: its cells by row, and what is wrong, a text for each."""

    cells: dict[str, str]
    wrong: list[str]


def judge(kernel: Kernel, results: Sequence[Result]) -> Judged:
    """A cell for each object, feature and file of tests."""
    version = tuple(int(part) for part in kernel.release.split(".")[:2])
    cells: dict[str, str] = {}
    wrong: list[str] = []
    counts: dict[str, Counter[str]] = {}
    for result in results:
        if "outcome" in result:
            counts.setdefault(f"tests {Path(result['file']).stem}", Counter())[result["outcome"]] += 1
        row, cell, complaint = _JUDGES[result["stage"]](result, version)
        if row:
            cells[row] = cell
        if complaint:
            wrong.append(f"{kernel.release}: {complaint}")
    for row, numbers in counts.items():
        cells[row] = ", ".join(f"{number} {outcome}" for outcome, number in numbers.items())
    return Judged(cells, wrong)


def _object(result: Result, version: tuple[int, ...]) -> tuple[str, str, str]:
    name = result["object"]
    if result["ok"]:
        return ("" if "program" in result else f"object {name}"), "loads", ""
    first = result["error"].splitlines()[0]
    if version < SINCE.get(name, (0,)):
        return f"object {name}", "absent", ""
    where = f"{name}.o" + (f" {result['program']}" if "program" in result else "")
    return f"object {name}", "REFUSED", f"{where}: {first}\n{result['error']}"


def _feature(result: Result, version: tuple[int, ...]) -> tuple[str, str, str]:
    if result["ok"]:
        return result["name"], "yes", ""
    bad = f"required, but {result['detail']}" if result.get("required", True) else ""
    return result["name"], f"no: {result.get('instead', '')}", bad and f"{result['name']}: {bad}"


def _test(result: Result, version: tuple[int, ...]) -> tuple[str, str, str]:
    return "", "", "" if result.get("ok", True) else f"{result['test']}\n{result['error']}"


def _nothing(result: Result, version: tuple[int, ...]) -> tuple[str, str, str]:
    return "", "", ""


_JUDGES = {"objects": _object, "doctor": _feature, "tests": _test, "end": _nothing}


def table(kernels: Mapping[str, Judged]) -> Iterator[str]:
    """Lines of Markdown."""
    rows = list(dict.fromkeys(row for judged in kernels.values() for row in judged.cells))
    yield "| | " + " | ".join(kernels) + " |"
    yield "|---|" + "---|" * len(kernels)
    for row in rows:
        yield f"| {row} | " + " | ".join(judged.cells.get(row, "–") for judged in kernels.values()) + " |"
