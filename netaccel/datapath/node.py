# SPDX-License-Identifier: Apache-2.0
"""What a node is, as its network namespace shows it: uplinks, pod devices, addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from netaccel.config import Settings
from netaccel.datapath import rtnetlink
from netaccel.datapath.abi import V4_MAPPED
from netaccel.datapath.netlink import ANYTHING, Change
from netaccel.datapath.rtnetlink import Address, DefaultRoute, Device


@dataclass(frozen=True, slots=True)
class NodeView:
    """One look. Addresses are in the 16-byte form, in the order in which they are preferred."""

    uplinks: tuple[Device, ...]
    pod_devices: tuple[Device, ...]
    primary: tuple[bytes, ...]
    """At most one of each family: what SNAT puts in packets."""
    node_port_addresses: tuple[bytes, ...]
    """Those that answer node ports."""
    local: frozenset[bytes]
    """Every address of the node."""
    warnings: tuple[str, ...] = ()


class Eye:
    """Looks at this thread's network namespace, and again only at what changed. For one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self.seen = NodeView((), (), (), (), frozenset())
        """The last look."""
        self._settings = settings
        self._devices: dict[int, Device] = {}
        self._addresses: Sequence[Address] = ()
        self._routes: Sequence[DefaultRoute] = ()

    def look(self, change: Change = ANYTHING) -> NodeView:
        """Look; ``change``: all that is different since the last look. DatapathError where refused.

        A look at everything takes 50 µs for each device.
        """
        if change.devices is None:
            self._devices = {device.ifindex: device for device in rtnetlink.devices()}
        for ifindex in change.devices or ():
            device = rtnetlink.device(ifindex)
            if device is None:
                self._devices.pop(ifindex, None)
            else:
                self._devices[ifindex] = device
        if "address" in change.kinds:
            self._addresses = rtnetlink.addresses()
        if "route" in change.kinds:
            self._routes = rtnetlink.default_routes()
        self.seen = view(self._settings, sorted(self._devices.values()), self._addresses, self._routes)
        return self.seen


def view(
    settings: Settings,
    devices: Sequence[Device],
    addresses: Sequence[Address],
    routes: Sequence[DefaultRoute],
) -> NodeView:
    """Choose, of what there is, what the settings ask for."""
    uplinks, warnings = _uplinks(settings, devices, routes)
    taken = {device.ifindex for device in uplinks}
    pods = tuple(
        device
        for device in devices
        if device.ifindex not in taken
        and not device.loopback
        and any(fnmatchcase(device.name, pattern) for pattern in settings.pod_devices)
    )
    primary = _primary(uplinks, addresses, routes)
    if uplinks and not primary:
        names = ", ".join(device.name for device in uplinks)
        warnings.append(f"{names}: no address: node ports and backends on other nodes can't be served")
    answering = _in_networks(settings.node_port_addresses, addresses) or primary
    if settings.node_port_addresses and answering is primary:
        wanted = ", ".join(settings.node_port_addresses)
        warnings.append(
            f"nodePortAddresses {wanted}: this node has no such address; node ports answer nowhere"
        )
        answering = ()
    return NodeView(
        uplinks=uplinks,
        pod_devices=pods,
        primary=primary,
        node_port_addresses=answering,
        local=frozenset(address.address for address in addresses),
        warnings=tuple(warnings),
    )


def _uplinks(
    settings: Settings, devices: Sequence[Device], routes: Sequence[DefaultRoute]
) -> tuple[tuple[Device, ...], list[str]]:
    by_name = {device.name: device for device in devices}
    by_index = {device.ifindex: device for device in devices}
    if settings.uplinks:
        missing = [name for name in settings.uplinks if name not in by_name]
        found = tuple(by_name[name] for name in settings.uplinks if name in by_name)
        return found, [f"uplink {name}: no such device; it is taken when it appears" for name in missing]
    indexes = dict.fromkeys(route.device for route in routes)
    found = tuple(by_index[i] for i in indexes if i in by_index and not by_index[i].loopback)
    if not found:
        return (), ["no default route, so no uplink: clients outside are not served; give --uplinks"]
    return found, []


def _primary(
    uplinks: Sequence[Device], addresses: Sequence[Address], routes: Sequence[DefaultRoute]
) -> tuple[bytes, ...]:
    """The first good address of each family: on the device of its default route, else on an uplink."""
    indexes = [device.ifindex for device in uplinks]
    found = []
    for is_v4 in (True, False):
        routed = [r.device for r in routes if (r.family == 2) == is_v4 and r.device in indexes]
        candidates = {
            address.device: address.address
            for address in reversed(addresses)  # the first of a device wins
            if address.address.startswith(V4_MAPPED) == is_v4
            and address.global_scope
            and address.primary
            and address.usable
        }
        chosen = next((candidates[i] for i in (*routed, *indexes) if i in candidates), None)
        if chosen:
            found.append(chosen)
    return tuple(found)


def _in_networks(networks: Sequence[str], addresses: Sequence[Address]) -> tuple[bytes, ...]:
    wanted = [ipaddress.ip_network(network) for network in networks]
    found = []
    for address in addresses:
        raw = address.address.removeprefix(V4_MAPPED)
        if any(ipaddress.ip_address(raw) in network for network in wanted):
            found.append(address.address)
    return tuple(found)
