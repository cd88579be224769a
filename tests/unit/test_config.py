# SPDX-License-Identifier: Apache-2.0
"""Settings: where they come from, which place wins, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from netaccel.config import HostPort, PortRange, Settings, load
from netaccel.errors import ConfigError


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    file = tmp_path / "netaccel.yaml"
    file.write_text("nodeName: from-file\nxdp: 'off'\nmapSizes: {flows4: 1000}\ncompareInterval: 7\n")
    settings = load(
        {"node_name": "from-flag", "xdp": None},
        {"NETACCEL_NODE_NAME": "from-environment", "NETACCEL_COMPARE_INTERVAL": "8"},
        file,
    )
    assert settings.node_name == "from-flag"
    assert settings.compare_interval == 8
    assert settings.xdp == "off"
    assert settings.map_sizes == {"flows4": 1000}


def test_node_name_of_the_downward_api_is_the_last_resort_but_the_hostname() -> None:
    assert load({}, {"NODE_NAME": "worker-7"}).node_name == "worker-7"
    assert load({}, {"NODE_NAME": "worker-7", "NETACCEL_NODE_NAME": "mine"}).node_name == "mine"
    assert load({}, {}).node_name


def test_lists_and_mappings_outside_the_file_are_separated_by_commas() -> None:
    settings = load(
        {"uplinks": "eth0, eth1", "map_sizes": "flows4=5,flows6=6"},
        {"NETACCEL_NODE_PORT_ADDRESSES": "10.1.2.3/8,fd00::1/64", "NETACCEL_TIMEOUTS": "udp=3"},
    )
    assert settings.uplinks == ("eth0", "eth1")
    assert settings.map_sizes == {"flows4": 5, "flows6": 6}
    assert settings.node_port_addresses == ("10.0.0.0/8", "fd00::/64"), "host bits are masked"
    assert settings.timeouts.udp == 3
    assert settings.timeouts.syn == Settings(node_name="n").timeouts.syn, "the others keep their default"


def test_off_means_none() -> None:
    settings = load({"pod_devices": "off", "metrics": "off"}, {})
    assert settings.pod_devices == ()
    assert settings.metrics is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:9962", HostPort("127.0.0.1", 9962)),
        ("[::1]:80", HostPort("::1", 80)),
        (":80", HostPort("", 80)),
    ],
)
def test_addresses_to_listen_at(text: str, expected: HostPort) -> None:
    assert load({"http": text}, {}).http == expected


def test_settings_are_immutable() -> None:
    settings = load({}, {})
    with pytest.raises(ValueError, match="frozen"):
        settings.xdp = "off"


@pytest.mark.parametrize(
    ("flags", "environment", "told"),
    [
        ({"snat_ports": "1-2"}, {}, "--snat-ports: give FIRST-LAST with 1024"),
        ({"snat_ports": "many"}, {}, "--snat-ports: give FIRST-LAST"),
        ({"snat_ports": "30000-40000"}, {}, "30000-40000 overlap nodePortRange 30000-32767"),
        ({"http": "localhost"}, {}, "--http: give ADDRESS:PORT"),
        ({"http": "[::1]:65536"}, {}, "--http: give ADDRESS:PORT"),
        ({"map_sizes": "flows4"}, {}, "--map-sizes: give NAME=VALUE"),
        ({"map_sizes": "flows4=0"}, {}, "--map-sizes flows4: "),
        ({"node_port_addresses": "10.0.0.0/33"}, {}, "--node-port-addresses: '10.0.0.0/33'"),
        ({"xdp": "native"}, {}, "--xdp: Input should be 'auto' or 'off'"),
        ({}, {"NETACCEL_TIMEOUTS": "dns=3"}, "NETACCEL_TIMEOUTS dns: no such setting; known are syn,"),
        ({}, {"NETACCEL_UPLINK": "eth0"}, "environment: NETACCEL_UPLINK is no setting"),
        ({"timeouts": "established=2000000"}, {}, "--timeouts established: "),
    ],
)
def test_a_wrong_setting_is_named_as_its_author_wrote_it(
    flags: dict[str, object], environment: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(flags, environment)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nodePortAdresses: [10.0.0.0/8]", "nodePortAdresses: no such setting; known are nodeName,"),
        ("snatPorts: 5-6", "snatPorts: give FIRST-LAST"),
        ("timeouts: {udp: -1}", "timeouts.udp: "),
        ("a: [", "line 1: not YAML"),
        ("- a", "holds a list; give a mapping"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "netaccel.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load({}, {}, file)
    assert str(caught.value).startswith(str(file))
    assert told in str(caught.value)


def test_a_missing_file_is_told() -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: can't be read: No such file"):
        load({}, {}, Path("/nonexistent/absent.yaml"))


def test_variables_that_kubernetes_sets_for_a_service_of_our_name_are_passed_over() -> None:
    load(
        {},
        {
            "NETACCEL_SERVICE_HOST": "10.0.0.1",
            "NETACCEL_PORT_9962_TCP_ADDR": "10.0.0.1",
            "NETACCEL_PORT": "x",
        },
    )


def test_ranges_that_share_a_port_overlap() -> None:
    assert PortRange(1, 5).overlaps(PortRange(5, 9))
    assert not PortRange(1, 4).overlaps(PortRange(5, 9))
