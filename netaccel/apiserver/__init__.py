# SPDX-License-Identifier: Apache-2.0
"""Talk to the Kubernetes API: credentials, fail-over, requests and streams as bytes.

``api`` what the rest of the house may ask · ``connection`` that, over aiohttp · ``servers`` which server is
asked, by which name · ``credentials``, ``kubeconfig`` who we are · ``light`` kubernetes_asyncio without its
models · ``refusals``, ``reasons`` errors as one line · ``backoff`` when to ask again · ``lines`` bytes cut
into lines · ``election`` one agent of the cluster.

Everything above takes the :class:`Api` of :mod:`.api` and never sees a client library.
"""
