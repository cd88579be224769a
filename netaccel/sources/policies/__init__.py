# SPDX-License-Identifier: Apache-2.0
"""Policies of all four kinds: raw form to model.

``forms`` what all of their schemas share · ``selectors``, ``blocks`` selectors and CIDRs · ``network``,
``cluster_network``, ``traffic`` one kind's schema (pydantic, unknown fields refused) and its conversion ·
``rules`` what a rule with a peer that can't be resolved says · ``convert`` the door: an object to its
policy, or what stands in for one that can't be used.
"""

from netaccel.sources.policies.convert import convert, stand_in

__all__ = ["convert", "stand_in"]
