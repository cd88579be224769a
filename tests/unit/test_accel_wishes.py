# SPDX-License-Identifier: Apache-2.0
"""What owners ask for."""

from __future__ import annotations

from typing import Any

import pytest

from netaccel.accelerate.wishes import Wish, Wishes, endpoints, selected, wishes
from netaccel.model.address import parse_address
from netaccel.model.endpoint import ContainerPort, Namespace, Pod, PodKey
from netaccel.model.service import Protocol, Service, ServiceKey
from netaccel.sources import parse

A, B = parse_address("10.0.1.5"), parse_address("10.0.2.5")
KEY, DB = PodKey("shop", "a"), ServiceKey("shop", "db")


def asked(pod: str = "", namespace: str = "", service: str = "", setting: str = "auto") -> Wishes:
    pods = [Pod(KEY, addresses=(A,), accelerate=pod)]
    return wishes(
        setting,
        pods,
        [Namespace("shop", accelerate=namespace)],
        [_service(service)],
        endpoints(pods, [(DB, [(A, 5432), (B, 5432)])]),
    )


def _service(accelerate: str, spec: dict[str, Any] | None = None) -> Service:
    manifest = {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": {"name": "db", "namespace": "shop", "annotations": {ANNOTATION: accelerate}},
        "spec": spec or {"clusterIP": "10.96.0.1", "ports": [{"port": 5432}]},
    }
    found = parse.decode(manifest)
    assert isinstance(found, Service)
    return found


ANNOTATION = "netaccel.io/accelerate"


def test_a_pod_goes_before_its_namespace_that_before_a_service_that_before_the_setting() -> None:
    def wish(port: int = 5432, **all_of: str) -> Wish:
        return asked(**all_of).of(KEY, A, port)

    assert wish(pod="disabled", namespace="enabled", service="enabled") is Wish.DISABLED
    assert wish(namespace="disabled", service="enabled") is Wish.DISABLED
    assert wish(service="disabled") is Wish.DISABLED
    assert wish(port=4000, service="disabled") is Wish.AUTO, "it is not the Service's endpoint"
    assert wish(setting="enabled") is Wish.ENABLED
    assert wish(setting="disabled") is Wish.DISABLED
    assert wish(setting="disabled", pod="enabled") is Wish.ENABLED


@pytest.mark.parametrize(
    ("labels", "target", "wanted"),
    [
        ({"app": "db", "tier": "1"}, 5432, Wish.DISABLED),
        ({"app": "db"}, "sql", Wish.DISABLED),
        ({"app": "db"}, "other", Wish.AUTO),
        ({"app": "web"}, 5432, Wish.AUTO),
    ],
)
def test_a_headless_service_stands_for_the_pods_that_it_selects(
    labels: dict[str, str], target: int | str, wanted: Wish
) -> None:
    """Slices of headless Services are not watched."""
    ports = (ContainerPort("sql", Protocol.TCP, 5432),)
    pod = Pod(KEY, addresses=(A,), labels=tuple(labels.items()), ports=ports)
    spec = {"clusterIP": "None", "selector": {"app": "db"}, "ports": [{"port": 80, "targetPort": target}]}
    headless = _service("disabled", spec)
    found = wishes("auto", [pod], [], [headless], endpoints([pod], selected([pod], [headless])))
    assert found.of(KEY, A, 5432) is wanted
    assert found.of(KEY, A, 80) is Wish.AUTO, "nothing listens there"


def test_a_value_that_means_nothing_is_told_and_ignored() -> None:
    found = asked(pod="off", namespace="disabled")
    assert found.of(KEY, A, 1) is Wish.DISABLED
    assert [str(one) for one in found.wrong] == [
        "Pod shop/a: annotation netaccel.io/accelerate: 'off' is no wish, it is ignored:"
        " give enabled or disabled"
    ]


def test_whether_anybody_wants_it() -> None:
    assert asked().any_enabled
    assert not asked(setting="disabled").any_enabled
    assert asked(setting="disabled", service="enabled").any_enabled
    assert not asked(setting="disabled", pod="disabled").any_enabled


def test_annotations_are_read() -> None:
    def read(kind: str, annotations: dict[str, Any], **more: Any) -> Any:
        meta = {"name": "a", "annotations": annotations}
        return parse.decode({"kind": kind, "apiVersion": "v1", "metadata": meta, **more})

    assert read("Pod", {ANNOTATION: " enabled "}).accelerate == "enabled"
    assert read("Namespace", {ANNOTATION: "disabled"}).accelerate == "disabled"
    assert read("Pod", {ANNOTATION: None}).accelerate == ""
    assert not read("Pod", {}).shaped
    assert read("Pod", {"kubernetes.io/egress-bandwidth": "10M"}).shaped
    assert _service("disabled").accelerate == "disabled"
