# SPDX-License-Identifier: Apache-2.0
"""What the agent writes to the Kubernetes API: NodeState, Events, and what one elected agent does for all.

::

    nodestate   this node's NodeState: when to write it            state    what it says (pure)
    events      Events on objects: how they are written            journal  which, and when again (pure)
                                                                   bucket   limits (pure)
    cluster     the elected agent's duties                         silence  which agents are silent (pure)
    policies    the status of policies: when to write it           policystatus  what it says (pure)
    notices     from the reconciler's conditions to Events and warnings (pure)
    refusals    what the API's no means, and what to say of it     times    as the API writes them (pure)

Writers take snapshots and notices by callables, never the agent. They raise nothing for what the API does:
what a person must mend is a line in ``problem``, the rest is tried again.
"""
