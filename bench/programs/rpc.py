# SPDX-License-Identifier: Apache-2.0
"""gRPC in Python: ``python -m bench.programs.rpc serve|ask ADDRESS PORT [SECONDS]``, answers compared.

The method answers what it was sent, backwards.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from concurrent import futures

from bench.programs.base import Ground, Outcome, Program, number

_METHOD = "/bench.Echo/Backwards"
_THREADS = 4
_PATIENCE = 20.0
_SIZES = (1, 64, 1000, 20_000)


def _target(address: str, port: str) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def serve(address: str, port: str) -> None:
    """Answer until SIGINT."""
    import grpc

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # of threads to come, too

    def answer(request: bytes, context: object) -> bytes:
        return request[::-1]

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
        def service(self, details: grpc.HandlerCallDetails) -> object:
            return grpc.unary_unary_rpc_method_handler(answer) if details.method == _METHOD else None

    server = grpc.server(futures.ThreadPoolExecutor(_THREADS), handlers=(Handler(),))
    server.add_insecure_port(_target(address, port))
    server.start()
    signal.sigwait({signal.SIGINT})
    server.stop(0).wait()


def ask(address: str, port: str, seconds: float) -> None:
    """Call from several threads, each with a channel of its own; print calls a second and wrong answers."""
    import grpc

    calls, wrong = [0] * _THREADS, [0] * _THREADS
    deadline = time.monotonic() + seconds

    def caller(own: int) -> None:
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(_target(address, port), options) as channel:
            method = channel.unary_unary(_METHOD)
            while time.monotonic() < deadline:
                request = os.urandom(_SIZES[calls[own] % len(_SIZES)])
                try:
                    answer = method(request, timeout=_PATIENCE, wait_for_ready=True)
                except grpc.RpcError as error:
                    print(f"{error.code()}: {error.details()}", file=sys.stderr)
                    answer = None
                wrong[own] += answer != request[::-1]
                calls[own] += 1

    threads = [threading.Thread(target=caller, args=(own,)) for own in range(_THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"rate {sum(calls) / seconds:.1f} wrong {sum(wrong)} silent {calls.count(0)}")


def _server(ground: Ground) -> list[str]:
    return ["python", "-m", __name__, "serve", ground.address, str(ground.port)]


def _ready(ground: Ground) -> str:
    connect = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)"
    return ground.ask(sys.executable, "-c", connect, ground.address, str(ground.port))


def _ask(ground: Ground, seconds: float) -> Outcome:
    where = (ground.address, str(ground.port), f"{seconds:g}")
    said = ground.ask(sys.executable, "-m", __name__, "ask", *where, seconds=seconds)
    counts = {what: number(rf"{what} (\d+)", said) for what in ("wrong", "silent")}
    errors = tuple(f"{what}: {count:.0f}" for what, count in counts.items() if count)
    return Outcome(number(r"rate ([\d.]+)", said), errors)


class _Rpc(Program):
    def missing(self) -> list[str]:
        """The module instead of a command."""
        return [] if importlib.util.find_spec("grpc") else ["grpcio (of Python)"]


RPC = _Rpc(
    "grpc",
    f"gRPC in Python: 1 B to 20 kB, {_THREADS} connections",
    {},
    lambda ground: None,
    _server,
    _ready,
    _ask,
    vouched=True,
)

if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3])
    else:
        ask(sys.argv[2], sys.argv[3], float(sys.argv[4]))
