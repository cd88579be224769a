# SPDX-License-Identifier: Apache-2.0
"""The API server as a source.

``kinds`` what is asked for · ``course`` which request comes next · ``wire`` lists and watch events ·
``told`` what was told, so that only differences are · ``standing`` how a kind is · ``reflector`` one kind,
kept in step · ``joint`` their events together · ``source`` all of them.
"""

from netaccel.sources.kubernetes.source import KubernetesSource

__all__ = ["KubernetesSource"]
