# SPDX-License-Identifier: Apache-2.0
"""Flows and drops of one node, as records that carry names.

``record`` what is told of a flow · ``decode`` samples of the ring buffer · ``directory`` whose address it is
· ``rules`` which rule an id means · ``naming`` all of that put together · ``log`` the last ones, and who
follows · ``filters`` which ones are wanted · ``line`` one line for people · ``pump`` from ring to log, and
what is counted on the way · ``traffic`` packets and bytes of flows · ``drops`` drops by reason, rule and
pair.
"""
