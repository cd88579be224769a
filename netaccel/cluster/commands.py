# SPDX-License-Identifier: Apache-2.0
"""``netaccel cluster``."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import click

from netaccel.cluster import install, lifecycle, proxies
from netaccel.cluster.handle import Cluster
from netaccel.cluster.state import State, locked
from netaccel.commands.output import emit, examples, output_option, print_table
from netaccel.lab.plan import check_name
from netaccel.lab.shell import require_root_and_tools

DEFAULT_NAME = "local"
_RUNS_A_PROGRAM = {"ignore_unknown_options": True}
_name_option = click.option(
    "--name",
    default=DEFAULT_NAME,
    envvar="NETACCEL_CLUSTER",
    show_default=True,
    help="Which cluster; several live side by side.",
)
_file = click.Path(dir_okay=False, path_type=Path)


@click.group(
    epilog=examples(
        "netaccel cluster up",
        "netaccel cluster kubectl -- get pods -A -o wide",
        "netaccel cluster exec node-1 -- ip address",
        "netaccel cluster exec client -- curl -s http://172.30.0.11:30080/",
        "netaccel cluster down",
    )
)
def cluster() -> None:
    """A real Kubernetes cluster on this machine: kubelets in namespaces, no container engine."""


@cluster.command(
    epilog=examples(
        "netaccel cluster up",
        "netaccel cluster up --nodes 3 --proxy kube-proxy-nftables",
        "netaccel cluster up --name two --proxy none",
    )
)
@_name_option
@click.option("--nodes", default=2, show_default=True, help="How many nodes, 1 to 32.")
@click.option(
    "--proxy",
    type=click.Choice(proxies.CHOICES),
    default=proxies.NETACCEL,
    show_default=True,
    help="What serves Services.",
)
@click.option("--image", type=_file, help="netaccel's image; unset: dist/netaccel-image.tar.")
@click.option(
    "--manifests",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Kustomization that installs netaccel; unset: deploy/overlays/instead-of-kube-proxy.",
)
@click.option("--keep", is_flag=True, help="When it fails, leave what is there, to be looked at.")
def up(name: str, nodes: int, proxy: str, image: Path | None, manifests: Path | None, keep: bool) -> None:
    """Bring a cluster up and wait until its nodes, its proxy and its DNS are ready.

    The first time it builds Kubernetes' programs, which takes minutes; they are kept.
    """
    started = time.monotonic()
    wanted = proxy == proxies.NETACCEL
    images = [str((image or install.IMAGE).resolve())] if wanted or image else []
    overlay = str((manifests or install.OVERLAY).resolve()) if wanted else ""
    lifecycle.up(State(name, nodes, proxy, tuple(images), overlay), click.echo, keep=keep)
    flag = _flag(name)
    click.echo(
        f"cluster {name}: {nodes} nodes, proxy {proxy}, in {time.monotonic() - started:.1f} s;"
        f" `netaccel cluster kubectl{flag} -- get pods -A`, `netaccel cluster down{flag}`"
    )


@cluster.command(epilog=examples("netaccel cluster down", "netaccel cluster down --name two"))
@_name_option
def down(name: str) -> None:
    """Take a cluster down, whatever is left of it."""
    lifecycle.down(name, click.echo)


@cluster.command(
    epilog=examples(
        "netaccel cluster status", "netaccel cluster status -o json | jq -r .apiServer.kubeconfig"
    )
)
@_name_option
@output_option
def status(name: str, output: str) -> None:
    """Show a cluster's nodes and its control plane."""
    require_root_and_tools()
    found = Cluster(name).status()
    emit(output, found, lambda: _print(found))
    unready = [node for node in found["nodes"] if node["ready"] != "True"]
    if found["missing"] or unready or not found["apiServer"]["ready"]:
        raise click.exceptions.Exit(3)


@cluster.command(name="list", epilog=examples("netaccel cluster list"))
@output_option
def list_(output: str) -> None:
    """List the clusters of this machine."""
    found = lifecycle.names()
    emit(output, found, lambda: print_table(("CLUSTER",), [(name,) for name in found], empty="no clusters"))


@cluster.command(
    context_settings=_RUNS_A_PROGRAM,
    epilog=examples("netaccel cluster kubectl -- get nodes", "netaccel cluster kubectl -- apply -f web.yaml"),
)
@_name_option
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def kubectl(name: str, words: tuple[str, ...]) -> None:
    """Run kubectl as the cluster's administrator."""
    require_root_and_tools()
    found = Cluster(name)
    program = str(found.programs.binaries.path("kubectl"))
    _become(found, "control-plane", (program, *words))


@cluster.command(
    name="exec",
    context_settings=_RUNS_A_PROGRAM,
    epilog=examples(
        "netaccel cluster exec node-1 -- netaccel service list --bpffs /run/netaccel/bpf",
        "netaccel cluster exec client -- curl -s http://172.30.0.11:30080/",
    ),
)
@_name_option
@click.argument("target")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def exec_(name: str, target: str, command: tuple[str, ...]) -> None:
    """Run a command (or a shell) in a node, the client or the control plane's namespace."""
    require_root_and_tools()
    _become(Cluster(name), target, command or (os.environ.get("SHELL", "/bin/sh"),))


@cluster.command(epilog=examples("netaccel cluster load dist/netaccel-image.tar"))
@_name_option
@click.argument("image", type=_file)
def load(name: str, image: Path) -> None:
    """Import an image's file (OCI or docker archive) into every node."""
    require_root_and_tools()
    Cluster(name).load(image)


@cluster.command(
    epilog=examples(
        "netaccel cluster proxy node-1 kube-proxy-nftables",
        "netaccel cluster proxy node-1 none --keep-rules",
    )
)
@_name_option
@click.option("--keep-rules", is_flag=True, help="Leave in the kernel what the proxy that stops wrote.")
@click.argument("node")
@click.argument("proxy", type=click.Choice([name for name in proxies.CHOICES if name != proxies.NETACCEL]))
def proxy(name: str, node: str, proxy: str, keep_rules: bool) -> None:
    """Start a kube-proxy in a node beside whatever else serves it, or stop the one that runs."""
    require_root_and_tools()
    Cluster(name).set_proxy(node, proxy, keep_rules=keep_rules)


@cluster.group(name="node")
def node_group() -> None:
    """What befalls a node."""


@node_group.command(epilog=examples("netaccel cluster node reboot node-2"))
@_name_option
@click.argument("node")
def reboot(name: str, node: str) -> None:
    """Switch a node off and on: new namespaces, the same disk; waits until it is Ready."""
    require_root_and_tools()
    started = time.monotonic()
    with locked(check_name(name)):
        ready = Cluster(name).reboot(node)
    how = (
        "Ready again"
        if ready
        else "on again (the API server is away: it can't say whether the node is Ready)"
    )
    click.echo(f"{node} is {how} after {time.monotonic() - started:.1f} s")


@cluster.group()
def apiserver() -> None:
    """What befalls the API server."""


@apiserver.command(
    name="stop", epilog=examples("netaccel cluster apiserver stop", "netaccel cluster apiserver stop --kill")
)
@_name_option
@click.option("--kill", is_flag=True, help="At once: connections are reset.")
def stop_api_server(name: str, kill: bool) -> None:
    """Stop the API server; nodes and pods go on."""
    require_root_and_tools()
    control = Cluster(name).control
    (control.kill_api_server if kill else control.stop_api_server)()


@apiserver.command(name="start", epilog=examples("netaccel cluster apiserver start"))
@_name_option
def start_api_server(name: str) -> None:
    """Start the API server and wait until it is ready."""
    require_root_and_tools()
    control = Cluster(name).control
    if not control.is_ready():
        control.start_api_server()


def _become(found: Cluster, target: str, words: tuple[str, ...]) -> None:
    place = found.target(target, words)
    os.execvpe(place.command[0], place.command, place.environment)


def _print(found: dict[str, Any]) -> None:
    api = found["apiServer"]
    click.echo(f"API server   {api['address']} {'ready' if api['ready'] else 'not ready'}")
    click.echo(f"kubeconfig   {api['kubeconfig']}")
    click.echo(f"proxy        {found['proxy']}")
    if found["missing"]:
        click.echo(f"not running  {', '.join(found['missing'])}")
    click.echo()
    rows = [
        (
            node["name"],
            "\n".join(node["addresses"]),
            "\n".join(node["podNetworks"]),
            node["zone"],
            {"True": "ready", "False": "not ready"}.get(node["ready"], "unknown"),
            node["kubeProxy"],
            node["pid"] or "off",
        )
        for node in found["nodes"]
    ]
    print_table(("NODE", "ADDRESSES", "PODS", "ZONE", "STATE", "KUBE-PROXY", "PID"), rows)


def _flag(name: str) -> str:
    return "" if name == DEFAULT_NAME else f" --name {name}"
