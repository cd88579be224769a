# SPDX-License-Identifier: Apache-2.0
"""Talk to the Kubernetes API: credentials, fail-over, requests and streams as bytes.

Everything above takes the :class:`Api` of :mod:`.api` and never sees a client library.
"""
