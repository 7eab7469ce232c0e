"""Every code that policy gives, with one line each; the reference is generated from here.

Codes of resource reports (``exited``, ``stop-timeout`` ...) belong to the resource types.
"""

from __future__ import annotations

__all__ = ["CAUSES", "NOT_CHOSEN", "REFUSALS"]

CAUSES: dict[str, str] = {
    "command": "Somebody asked for it.",
    "drained": "The owner is draining, about to stop, or leaves the cluster.",
    "dependency-cycled": "The resource stops because one that it needs is not online.",
    "failed-over": "The group failed on its former owner.",
    "failover": "A resource failed and its restarts in place are used up.",
    "failover-threshold": "The group failed over as often as its settings allow.",
    "group-start": "The group is to be online and nobody owned it.",
    "group-closing": "The resource stops because its group leaves this node.",
    "moved": "The group was asked to move.",
    "no-candidate": "No node can take the group now.",
    "no-failure-left": "Nothing of the group is failed any more.",
    "no-other-node": "The group failed and no other node can take it.",
    "node-lost": "The node's lease ran out without a word from it.",
    "node-stopped": "The node confirmed that everything on it is stopped.",
    "node-up": "The node holds a lease and its daemon is connected.",
    "parameters-changed": "The resource restarts with its new parameters.",
    "removing": "The group is being removed.",
    "restart-in-place": "A resource failed and is restarted where it is.",
    "retry-period": "The group was failed for its retry period and is tried again.",
    "stop-failed": "The resource could not be stopped: nothing may be started in its place.",
    "token-expired": "The lifetime of the join token is over.",
    "unwanted": "The resource stops because it is not wanted online.",
}
"""Of causes in entries; a resource that changes state unasked carries the code of its report."""

NOT_CHOSEN: dict[str, str] = {
    "current-owner": "The group is to leave this node.",
    "down": "The node holds no run-lease.",
    "failed-there": "The group failed on this node since it was last online.",
    "higher-id": "It owns as many groups as the chosen node and has the higher number.",
    "learner": "The node is not a full member yet.",
    "leaving": "The node leaves the cluster.",
    "more-groups": "It owns more groups than the chosen node.",
    "not-connected": "The node's daemon is not connected to the leader.",
    "not-preferred-first": "It comes later in the order of owners.",
    "paused": "The node is paused.",
    "stopping": "The node is about to stop in order.",
}
"""Why a node was not chosen as owner."""

REFUSALS: dict[str, str] = {
    "address-in-use": "Another resource or a node has this address.",
    "address-outside": "The address lies in no subnet of a client network.",
    "dependency-cycle": "The dependencies would run in a circle.",
    "dependency-depth": "The chain of dependencies would be too long.",
    "dependency-unknown": "A resource can depend only on resources of its own group.",
    "duplicate-node": "A node is named twice.",
    "group-exists": "There is a group of this name.",
    "group-online": "The group must be offline for this.",
    "group-removing": "The group is being removed.",
    "invalid-address": "The address cannot be read.",
    "invalid-digest": "The digest is no SHA-256.",
    "invalid-key": "The key is not a heartbeat key, or not the one in use.",
    "invalid-name": "The name has forbidden characters or the wrong length.",
    "invalid-parameter": "A parameter's value is out of its range or form.",
    "invalid-subnet": "The subnet cannot be read.",
    "last-node": "The cluster cannot go on without this node.",
    "missing-parameter": "A required parameter is missing.",
    "needed-by": "Other resources depend on it.",
    "network-in-use": "Nodes have addresses on this network that the change would exclude.",
    "network-overlap": "Another network has an overlapping subnet.",
    "no-candidate": "No node can take the group.",
    "node-down": "The node is down.",
    "node-exists": "There is a node of this name, uuid or address.",
    "node-leaving": "The node leaves the cluster.",
    "node-learner": "The node is not a full member yet.",
    "node-not-connected": "The node's daemon is not connected to the leader.",
    "node-paused": "The node is paused.",
    "node-stopping": "The node is about to stop in order.",
    "not-enough-voters": "The nodes that remain and can be reached would be no quorum.",
    "out-of-range": "The value is out of its range.",
    "owner-not-connected": "The daemon of the owner does not answer; the group runs on.",
    "provider-offline": "An online resource cannot begin to depend on one that is not.",
    "rekey-under-way": "The heartbeat keys are being replaced already.",
    "profile-changing": "A change of the timing profile is under way.",
    "profile-too-short": "A node has no real-time scheduling, which the timing profile needs.",
    "resource-exists": "There is a resource of this name.",
    "resource-online": "The resource must be offline for this.",
    "token-exists": "The join token is known already.",
    "token-unknown": "The join token is unknown, used or expired.",
    "too-many": "A limit of the cluster is reached.",
    "transfer-no-voter": "Leadership was not handed over: nobody has a vote and can be reached.",
    "transfer-not-caught-up": "Leadership was not handed over: the node lags behind.",
    "transfer-not-connected": "Leadership was not handed over: the node's daemon is not connected.",
    "unknown-group": "There is no such group.",
    "unknown-network": "There is no such network.",
    "unknown-node": "There is no such node.",
    "unknown-parameter": "The resource type has no such parameter.",
    "unknown-profile": "There is no such timing profile.",
    "unknown-resource": "There is no such resource.",
    "unknown-type": "There is no such resource type.",
}
"""Of refused commands."""
