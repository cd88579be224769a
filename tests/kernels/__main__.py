# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.kernels [SERIES…]``: exit status 0 if no kernel refused what it should take."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tests.kernels import machine, packages, report

AGENT = "connections_and_counters or takes_every_hook or adopts or leaves_nothing or pod_devices"
# The test of the limit of new flows needs a machine that sends hundreds of packets in a tick.
BOOTS = {
    "programs": machine.Boot("objects doctor", (), 180),
    "packets": machine.Boot("tests", ("tests/datapath/test_packets.py", "-k", "not limiter"), 600),
    "sockets": machine.Boot(
        "tests",
        (
            "tests/datapath/test_cookie.py",
            "tests/datapath/test_sock_bind.py",
            "tests/datapath/test_sock_connect.py",
        ),
        600,
    ),
    "wires": machine.Boot("tests", ("tests/datapath/test_uplink_wire.py",), 600),
    "agent": machine.Boot("tests", ("tests/agent", "-k", AGENT), 600),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kernels", description=__doc__)
    parser.add_argument("series", nargs="*", default=list(packages.SERIES), help=" ".join(packages.SERIES))
    parser.add_argument("--boot", action="append", choices=list(BOOTS), help="which; all unless told")
    parser.add_argument("--tests", nargs=argparse.REMAINDER, help="a boot for these arguments of pytest")
    parser.add_argument("--limit", type=float, default=900, help="its seconds")
    options = parser.parse_args()
    if missing := machine.missing_tools():
        print(f"missing: install {' '.join(missing)}", file=sys.stderr)
        return 1
    boots = [BOOTS[name] for name in options.boot or ([] if options.tests else BOOTS)]
    if options.tests:
        boots.append(machine.Boot("tests", tuple(options.tests), options.limit))
    judged = {}
    for series in options.series:
        kernel = packages.fetch(series)
        results: list[dict[str, Any]] = []
        lost: list[str] = []
        for boot in boots:
            print(f"{kernel.release} ({kernel.package} {kernel.version}): {boot}", flush=True)
            with packages.alone():
                outcome = machine.run(kernel, boot)
            results += outcome.results
            if not outcome.ended:
                lost.append(f"{kernel.release}: {boot} did not come to its end\n{outcome.console}")
        found = report.judge(kernel, results)
        judged[kernel.release] = found._replace(wrong=[*found.wrong, *lost])
    print("", *report.table(judged), sep="\n")
    wrong = [text for found in judged.values() for text in found.wrong]
    for text in wrong:
        print(f"\n{text}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
