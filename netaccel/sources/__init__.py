# SPDX-License-Identifier: Apache-2.0
"""Where objects come from: raw object to model, or a rejection with its reason.

``raw`` narrow structs · ``structs`` bytes or builtins into them · ``checks`` single fields ·
``services``, ``endpoints``, ``policies`` raw to model · ``parse`` the door to all of these · ``documents``
text of a file to objects · ``ledger`` which file's version of an object counts · ``manifests`` a watched
directory.
"""
