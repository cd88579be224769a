# SPDX-License-Identifier: Apache-2.0
"""The agent's settings: flags before ``NETACCEL_*`` variables before a YAML file before defaults.

Names are camelCase in the file (as in a ConfigMap: ``nodePortAddresses``), upper case with underscores
in the environment (``NETACCEL_NODE_PORT_ADDRESSES``) and dashed as flags (``--node-port-addresses``).
Lists are separated by commas outside the file, mappings written as ``NAME=VALUE,NAME=VALUE``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from netaccel.errors import ConfigError

PREFIX = "NETACCEL_"
FILE = PREFIX + "CONFIG"
"""Names the file; the only variable that is no setting."""
# A Service named "netaccel" makes the kubelet set variables of these forms in every pod beside it.
_SERVICE_LINK = re.compile(r"NETACCEL_(SERVICE_(HOST|PORT)|PORT(_\d+_(TCP|UDP|SCTP))?)(_\w+)?$")

_LABEL_VALUE = r"^(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?$"


class PortRange(NamedTuple):
    """Ports ``first`` to ``last``, both included."""

    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def overlaps(self, other: PortRange) -> bool:
        """Whether the two share a port."""
        return self.first <= other.last and other.first <= self.last


class HostPort(NamedTuple):
    """Where a server listens. Port 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_port_range(value: object) -> PortRange:
    """Read ``61000-65535``. Raises ValueError saying what is allowed."""
    if isinstance(value, PortRange):
        return value
    match = re.fullmatch(r"\s*(\d{1,5})\s*-\s*(\d{1,5})\s*", value) if isinstance(value, str) else None
    if not match:
        raise ValueError("give FIRST-LAST, as 10000-29999")
    found = PortRange(int(match[1]), int(match[2]))
    if not 1024 <= found.first <= found.last <= 65535:
        raise ValueError("give FIRST-LAST with 1024 ≤ FIRST ≤ LAST ≤ 65535")
    return found


def parse_host_port(value: object) -> HostPort:
    """Read ``127.0.0.1:9962``, ``[::1]:9962`` or ``:9962`` (all addresses). Raises ValueError."""
    if isinstance(value, HostPort):
        return value
    match = re.fullmatch(r"(?:\[([^\]]*)\]|([^:]*)):(\d{1,5})", value) if isinstance(value, str) else None
    if not match or int(match[3]) > 65535:
        raise ValueError("give ADDRESS:PORT, as 127.0.0.1:9962 or [::1]:9962")
    return HostPort(match[1] or match[2] or "", int(match[3]))


def _endpoint(value: object) -> HostPort:
    """A server's address: both parts must be there. Raises ValueError."""
    found = parse_host_port(value)
    if not found.host or not found.port:
        raise ValueError("give ADDRESS:PORT, as 192.168.0.10:6443 or [fd00::10]:6443")
    return found


def _network(value: str) -> str:
    return str(ipaddress.ip_network(value.strip(), strict=False))


def _from_list(value: object) -> object:
    """``a,b`` → ("a", "b"); ``off`` and the empty string → ()."""
    if isinstance(value, str):
        return tuple(v.strip() for v in value.split(",") if v.strip()) if value.strip() != "off" else ()
    return tuple(value) if isinstance(value, list) else value


def _from_mapping(value: object) -> object:
    """``a=1,b=2`` → {"a": "1", "b": "2"}."""
    if not isinstance(value, str):
        return value
    pairs = [v.partition("=") for v in value.split(",") if v.strip()]
    if any(not equals for _, equals, _ in pairs):
        raise ValueError("give NAME=VALUE, several with commas between")
    return {name.strip(): number.strip() for name, _, number in pairs}


def _from_off(value: object) -> object:
    return None if value in ("off", "") else value


Names = Annotated[tuple[str, ...], BeforeValidator(_from_list)]
Networks = Annotated[tuple[Annotated[str, AfterValidator(_network)], ...], BeforeValidator(_from_list)]
Ports = Annotated[PortRange, BeforeValidator(parse_port_range)]
Listen = Annotated[HostPort, BeforeValidator(parse_host_port)]
Endpoint = Annotated[HostPort, BeforeValidator(_endpoint)]
Seconds = Annotated[int, Field(ge=1, le=2**20)]  # × 1000 jiffies a second stays below 2^31


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        populate_by_name=True,
        hide_input_in_errors=True,
    )


class Timeouts(_Frozen):
    """Seconds after its last packet at which a flow is forgotten, by state."""

    syn: Seconds = 60
    established: Seconds = 21600
    closing: Seconds = 120
    closed: Seconds = 60
    unreplied: Seconds = 30
    udp: Seconds = 180


class Settings(_Frozen):
    """Everything that the agent can be told. Unset paths and devices are discovered at start."""

    node_name: str = Field(min_length=1, description="this node's name in the cluster")
    manifests: Path | None = Field(None, description="folder of manifests to serve from")
    kubeconfig: str | None = Field(
        None,
        description="kubeconfig to serve from (several with colons between), as KUBECONFIG; in a pod: none",
    )
    api_servers: Annotated[tuple[Endpoint, ...], BeforeValidator(_from_list)] = Field(
        (), description="API servers' own addresses, instead of the kubeconfig's or the pod's one"
    )
    kube_proxy: Literal["beside", "instead"] = Field(
        "beside", description="whether a kube-proxy serves this node too, or this agent stands in for it"
    )
    service_proxy_name: Annotated[str, Field(pattern=_LABEL_VALUE)] = Field(
        "", description="serve only Services whose label service.kubernetes.io/service-proxy-name says this"
    )
    drain: bool = Field(
        False, description="serve flows that are open and leave new ones to the node's stack (kube-proxy)"
    )
    cgroup: Path | None = Field(
        None,
        description="root of the cgroup v2 subtree whose sockets are served; unset: /run/netaccel/cgroup"
        " where `netaccel mounts` made it, else the tree's root",
    )
    bpffs: Path | None = Field(
        None,
        description="folder of a bpf file system for pins; unset: /run/netaccel/bpf where `netaccel mounts`"
        " made it, else /sys/fs/bpf",
    )
    uplinks: Names = Field((), description="devices to the outside; unset: those with a default route")
    pod_devices: Names = Field(
        ("veth*", "lxc*", "cali*", "tap*", "azv*", "eni*", "gke*"),
        description="patterns of pods' devices on the node; off: none",
    )
    node_port_addresses: Networks = Field(
        (), description="CIDRs of the node's addresses that answer node ports; unset: the primary ones"
    )
    http: Listen = Field(HostPort("127.0.0.1", 9962), description="where the API listens")
    metrics: Annotated[Listen | None, BeforeValidator(_from_off)] = Field(
        None, description="one more address for /metrics alone; off: none"
    )
    healthz: Annotated[Listen | None, BeforeValidator(_from_off)] = Field(
        None,
        description="where load balancers ask for this node's health; off: nowhere; unset: :10256"
        " instead of a kube-proxy",
    )
    map_sizes: Annotated[dict[str, PositiveInt], BeforeValidator(_from_mapping)] = Field(
        default_factory=dict, description="entries by map, where the default is not wanted"
    )
    timeouts: Annotated[Timeouts, BeforeValidator(_from_mapping)] = Field(
        default_factory=Timeouts, description="seconds by flow state"
    )
    snat_ports: Ports = Field(PortRange(10000, 29999), description="source ports for flows to other nodes")
    node_port_range: Ports = Field(PortRange(30000, 32767), description="the cluster's node ports")
    xdp: Literal["auto", "off"] = Field("auto", description="XDP on uplinks where the driver can")
    new_flows_per_second: int = Field(
        100_000, ge=0, le=10**8, description="new flows stored a second and CPU; 0: no limit"
    )
    policy: Literal["on", "off"] = Field("on", description="enforce policies at pods' devices")
    strict: bool = Field(
        False, description="carry nothing of a pod before its policy is in force, with no agent too"
    )
    peer: Literal["auto", "off"] = Field(
        "auto",
        description="packets between pods of this node skip its stack, where nothing there needs them; "
        "and XDP drops early for these pods",
    )
    accelerate: Literal["auto", "enabled", "disabled"] = Field(
        "auto",
        description="TCP between pods of this node from socket to socket; enabled: their programs do not"
        " splice(2) from sockets, so they are not looked at",
    )
    accelerate_rate: PositiveFloat = Field(
        100.0, description="segments a second, each way, from which a connection is accelerated"
    )
    accelerate_interval: PositiveFloat = Field(
        1.0, description="seconds between looks for connections to accelerate"
    )
    state: Path = Field(
        Path("/var/lib/netaccel"),
        description="folder for what outlives agents: recorded edges, receipts of acceleration",
    )
    flow_history: PositiveInt = Field(65_536, description="flows kept in memory for `netaccel flows`")
    edge_days: PositiveFloat = Field(7.0, description="days that recorded edges are kept")
    edge_megabytes: PositiveFloat = Field(256.0, description="size on disk that recorded edges may take")
    compare_interval: PositiveFloat = Field(300.0, description="seconds between comparisons with the maps")
    sweep_interval: PositiveFloat = Field(30.0, description="seconds between sweeps of expired flows")

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.snat_ports.overlaps(self.node_port_range):
            raise ValueError(
                f"snatPorts {self.snat_ports} overlap nodePortRange {self.node_port_range}: give another"
            )
        return self


def load(
    flags: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Settings:
    """Read the settings from all three places.

    ``flags``: by field name, None where not given. ``environment``: os.environ unless given. Raises
    ConfigError with one line that names the place, the setting and the remedy.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for origin, layer in (
        (str(file), _read_file(file) if file else {}),
        ("environment", _read_environment(environment)),
        ("flag", {k: v for k, v in (flags or {}).items() if v is not None}),
    ):
        for name, value in layer.items():
            values[name] = value
            origins[name] = origin
    if not values.get("kubeconfig") and environment.get("KUBECONFIG"):
        values["kubeconfig"] = environment["KUBECONFIG"]
    if not values.get("node_name"):
        values["node_name"] = environment.get("NODE_NAME") or socket.gethostname()
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error, origins)) from error


def _read_environment(environment: Mapping[str, str]) -> dict[str, object]:
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    found: dict[str, object] = {}
    for variable, value in environment.items():
        if variable in known:
            found[known[variable]] = value
        elif variable.startswith(PREFIX) and variable != FILE and not _SERVICE_LINK.match(variable):
            raise ConfigError(f"environment: {variable} is no setting; `netaccel agent --help` lists them")
    return found


def _read_file(file: Path) -> dict[str, object]:
    import yaml

    try:
        content: Any = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{file}: can't be read: {reason}") from error
    except yaml.YAMLError as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        where = f" line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{where}: not YAML: {str(error).splitlines()[0]}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: holds a {type(content).__name__}; give a mapping of settings")
    names = {to_camel(name): name for name in Settings.model_fields}
    return {names.get(str(key), str(key)): value for key, value in content.items()}


def _one_line(error: ValidationError, origins: Mapping[str, str]) -> str:
    """Say pydantic's first problem in this project's form, and how many more there are."""
    problems = error.errors(include_url=False)
    first = problems[0]
    loc = tuple(str(part) for part in first["loc"])
    names = {to_camel(name): name for name in Settings.model_fields}
    field = names.get(loc[0], loc[0]) if loc else ""
    origin = origins.get(field, "")
    reason = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        known = Timeouts.model_fields if field == "timeouts" else Settings.model_fields
        reason = f"no such setting; known are {', '.join(to_camel(name) for name in known)}"
    where = _spelling(origin, field, loc[1:]) if field else ""
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {reason}{more}" if where else f"{reason}{more}"


def _spelling(origin: str, field: str, rest: tuple[str, ...]) -> str:
    """Name the setting as its author wrote it."""
    inner = "".join(f" {part}" for part in rest if not part.isdigit())
    if origin == "flag":
        return "--" + field.replace("_", "-") + inner
    if origin == "environment":
        return PREFIX + field.upper() + inner
    name = ".".join((to_camel(field), *rest))
    return f"{origin}: {name}" if origin else name
