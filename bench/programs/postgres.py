# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL with pgbench: look-ups for the rate, then transactions whose sums must agree."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from bench.programs.base import Ground, Outcome, Program, number
from netaccel.lab.shell import run

_BINARIES = "/usr/lib/postgresql/*/bin"
_DATABASE = "postgres"
_CLIENTS, _TRANSFERS = 8, 100
_AS_OWNER = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--")  # root it refuses
_OPTIONS = {"fsync": "off", "shared_buffers": "32MB", "max_connections": "50", "autovacuum": "off"}
_SUMS = """SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(bbalance) FROM pgbench_branches),
    (SELECT sum(tbalance) FROM pgbench_tellers), (SELECT sum(delta) FROM pgbench_history),
    (SELECT count(*) FROM pgbench_history)"""


def _binary(name: str) -> str:
    found = sorted(Path("/").glob(f"{_BINARIES[1:]}/{name}"))
    return str(found[-1]) if found else name


def _prepare(ground: Ground) -> None:
    data = ground.folder / "data"
    data.mkdir()
    shutil.chown(data, "postgres", "postgres")
    how = ("-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C")
    run(*_AS_OWNER, _binary("initdb"), *how)
    with (data / "pg_hba.conf").open("a") as file:
        file.write("host all all all trust\n")


def _server(ground: Ground) -> list[str]:
    data = ground.folder / "data"
    options = {**_OPTIONS, "listen_addresses": ground.address, "port": str(ground.port)}
    options["unix_socket_directories"] = str(data)
    words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
    return [*_AS_OWNER, _binary("postgres"), "-D", str(data), *words]


def _at(ground: Ground) -> tuple[str, ...]:
    return ("-h", ground.address, "-p", str(ground.port), "-U", "postgres")


def _query(ground: Ground, text: str) -> str:
    return ground.ask(_binary("psql"), *_at(ground), "-d", _DATABASE, "-AtXc", text).strip()


def _ready(ground: Ground) -> None:
    if not _query(ground, "SELECT to_regclass('pgbench_accounts')"):
        ground.ask(_binary("pgbench"), *_at(ground), "-i", "-q", "-s", "1", _DATABASE)


def _load(ground: Ground, seconds: float) -> Outcome:
    pgbench = (_binary("pgbench"), *_at(ground), "-n", "-c", str(_CLIENTS), "-j", "2")
    look_ups = ("-S", "-M", "prepared", "-T", f"{max(1, round(seconds))}", _DATABASE)
    said = ground.ask(*pgbench, *look_ups, seconds=seconds)
    before = int(_query(ground, _SUMS).split("|")[-1])
    transfers = ground.ask(*pgbench, "-t", str(_TRANSFERS), _DATABASE)
    *sums, count = _query(ground, _SUMS).split("|")
    errors = re.findall(r"number of failed transactions: [1-9].*", said + transfers)
    if len(set(sums)) != 1:
        errors.append(f"sums differ: {', '.join(sums)}")
    if int(count) - before != _CLIENTS * _TRANSFERS:
        errors.append(f"{int(count) - before} transactions of {_CLIENTS * _TRANSFERS}")
    return Outcome(number(r"tps = ([\d.]+)", said), tuple(errors))


POSTGRES = Program(
    "postgresql",
    f"pgbench: look-ups, {_CLIENTS} connections",
    {f"{_BINARIES}/postgres": "postgresql", f"{_BINARIES}/pgbench": "postgresql", "setpriv": "util-linux"},
    _prepare,
    _server,
    _ready,
    _load,
)
