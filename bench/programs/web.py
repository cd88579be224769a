# SPDX-License-Identifier: Apache-2.0
"""nginx with wrk over kept connections, plain and with TLS; then wrk compares answers with the file."""

from __future__ import annotations

import re

from bench.programs.base import CONNECTIONS, Ground, Outcome, Program, number
from netaccel.lab.shell import run

_BODY = bytes(97 + number * 7 % 26 for number in range(1000)).decode()
_CONFIGURATION = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
    access_log off; sendfile on; keepalive_requests 1000000000;
    server {{ listen {address}:{port}{tls}; root {folder}/www; }}
}}
"""
_TLS = " ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem"
_CHECKED = 2
"""Seconds in which wrk reads the answers, which takes it longer than the server."""
_CHECK = """
local threads = {{}}
function setup(thread) table.insert(threads, thread) end
function init() wrong = 0 end
function response(status, headers, body)
   if status ~= 200 or body ~= "{body}" then wrong = wrong + 1 end
end
function done()
   local sum = 0
   for _, thread in ipairs(threads) do sum = sum + thread:get("wrong") end
   print("wrong answers: " .. sum)
end
"""


def _prepare(ground: Ground, *, tls: bool) -> None:
    folder = ground.folder
    (folder / "www").mkdir()
    (folder / "www" / "body").write_text(_BODY)
    (folder / "check.lua").write_text(_CHECK.format(body=_BODY))
    if tls:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        files = ("-keyout", f"{folder}/key.pem", "-out", f"{folder}/cert.pem")
        run("openssl", "req", "-x509", *key, *files, "-days", "2", "-subj", "/CN=web")
    (folder / "nginx.conf").write_text(
        _CONFIGURATION.format(
            folder=folder,
            address=f"[{ground.address}]" if ":" in ground.address else ground.address,
            port=ground.port,
            tls=_TLS.format(folder=folder) if tls else "",
        )
    )


def _server(ground: Ground) -> list[str]:
    return ["nginx", "-c", f"{ground.folder}/nginx.conf"]


def _url(ground: Ground, scheme: str) -> str:
    address = f"[{ground.address}]" if ":" in ground.address else ground.address
    return f"{scheme}://{address}:{ground.port}/body"


def _ready(ground: Ground, scheme: str) -> str:
    return ground.ask("curl", "-ksSf", "-m", "5", _url(ground, scheme))


def _load(ground: Ground, seconds: float, scheme: str) -> Outcome:
    wrk, url = ("wrk", "-t2", f"-c{CONNECTIONS}"), _url(ground, scheme)
    said = ground.ask(*wrk, f"-d{max(1, round(seconds))}s", url, seconds=seconds)
    checked = ground.ask(*wrk, f"-d{_CHECKED}s", "-s", f"{ground.folder}/check.lua", url, seconds=_CHECKED)
    errors = re.findall(r"(Socket errors: .*|Non-2xx .*|wrong answers: [1-9].*)", said + checked)
    return Outcome(number(r"Requests/sec:\s+([\d.]+)", said), tuple(errors))


WEB = Program(
    "nginx",
    f"wrk: 1 kB over {CONNECTIONS} kept connections",
    {"nginx": "nginx-light", "wrk": "wrk", "curl": "curl"},
    lambda ground: _prepare(ground, tls=False),
    _server,
    lambda ground: _ready(ground, "http"),
    lambda ground, seconds: _load(ground, seconds, "http"),
    vouched=True,
)
TLS = Program(
    "tls",
    f"wrk: 1 kB over {CONNECTIONS} kept connections with TLS",
    {**WEB.tools, "openssl": "openssl"},
    lambda ground: _prepare(ground, tls=True),
    _server,
    lambda ground: _ready(ground, "https"),
    lambda ground, seconds: _load(ground, seconds, "https"),
    vouched=True,
)
