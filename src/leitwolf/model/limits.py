"""Every limit of the system, with its reason."""

from __future__ import annotations

__all__ = [
    "APPENDS_IN_FLIGHT_MAX",
    "APPEND_BYTES_MAX",
    "CAS_BYTES_MAX",
    "COMMIT_HINT_ENTRIES",
    "DEPENDENCY_DEPTH_MAX",
    "ENTRIES_RETAINED",
    "ENTRY_BYTES_MAX",
    "GROUPS_MAX",
    "HEARTBEAT_KEY_BYTES",
    "LINKS_TOLD_MAX",
    "LOCATION_LENGTH_MAX",
    "NAME_LENGTH_MAX",
    "NODES_MAX",
    "PARAMETER_BYTES_MAX",
    "PEER_FRAME_BYTES_MAX",
    "REGION_APPENDED_BYTES_MAX",
    "REGION_WRITES_MAX",
    "REQUESTS_PENDING_MAX",
    "REQUESTS_TOGETHER_MAX",
    "RESOURCES_MAX",
    "RESTART_PAUSE_MS",
    "RESTART_PAUSE_MS_MAX",
    "SILENCE_MS_MAX",
    "SNAPSHOT_CHUNK_BYTES",
    "SNAPSHOT_ENTRIES",
    "TOKEN_LIFETIME_S_MAX",
]

HEARTBEAT_KEY_BYTES = 32
"""AES-256."""
NODES_MAX = 64
"""The design holds to 64 nodes; a star of heartbeats grows linearly."""
LINKS_TOLD_MAX = 512
"""Links whose state a node tells the others, and takes from one: 64 nodes on eight interconnects.
Of more links the state is known only to the node itself."""
GROUPS_MAX = 1_000
"""Keeps a full plan below 50 ms."""
RESOURCES_MAX = 5_000
"""As above; five resources per group is typical."""
RESTART_PAUSE_MS = 100
"""From one restart in place to the second; doubles with each further one of the restart period. The
first is made at once, so only what fails again and again waits, and does not flood the log."""
RESTART_PAUSE_MS_MAX = 5_000
"""The pause grows up to this: a service whose cause is gone comes back within seconds."""
LOCATION_LENGTH_MAX = 1_024
"""A path or URL of a disk or witness."""
SILENCE_MS_MAX = 60_000
"""T_d of a disk or witness; a guard believes no longer promise."""
NAME_LENGTH_MAX = 63
"""Names become cgroup and file names; 63 is a DNS label."""
PARAMETER_BYTES_MAX = 8_192
"""One parameter value; a command line with its environment fits."""
DEPENDENCY_DEPTH_MAX = 100
"""As in the original; real chains have less than ten links."""
ENTRY_BYTES_MAX = 1 << 20
"""One entry must fit a frame and be synced well within a heartbeat."""
APPEND_BYTES_MAX = 256 << 10
"""Bytes of entries in one append: small enough not to delay what comes behind it."""
CAS_BYTES_MAX = 8 << 20
"""Value of an object witness: the snapshot of a full cluster and the entries behind it. (etcd takes
1.5 MiB unless it is told otherwise.)"""
REGION_WRITES_MAX = 64
"""Writes to a region of a shared disk before its content begins anew, with a snapshot. Who takes
the disk over reads and checks them all, 0.06 ms each, and the groups of healthy nodes bear an
election of 30 ms by the default profile. As many units of 4 KiB are one read."""
REGION_APPENDED_BYTES_MAX = 1 << 20
"""As above, for payloads behind the first write: 10 ms at 100 MB/s."""
APPENDS_IN_FLIGHT_MAX = 32
"""Unanswered appends per peer; beyond that the peer is paused until it answers."""
PEER_FRAME_BYTES_MAX = 4 << 20
"""Largest frame accepted on a peer stream."""
SNAPSHOT_CHUNK_BYTES = 256 << 10
"""Chunk of a snapshot transfer."""
SNAPSHOT_ENTRIES = 10_000
"""Entries behind the snapshot that cause the next one: bounds log size and restart time."""
ENTRIES_RETAINED = 1_000
"""Entries kept in memory behind a snapshot: a node a little behind needs no whole snapshot."""
COMMIT_HINT_ENTRIES = 32
"""Commits after which the next write carries a commit hint: cheap, and it dates corruption."""
FORCES_MAX = 64
"""Forced quorums in the life of a cluster; heartbeats carry a number of 8 bytes for each."""
REQUESTS_PENDING_MAX = 4_096
"""Requests waiting for their commit; more are refused as overload."""
REQUESTS_TOGETHER_MAX = 128
"""Requests decided in one step, so in one write: it takes 5 ms at most, and costs no more than half
as much per request as a step for eight."""
RECORD_LINES_MAX = 64
"""Lines of a local recorder in one entry; what is left follows in the next."""
RECORD_LINE_BYTES_MAX = 512
"""A line of the recorder has 256 bytes; its time is added to it."""
TOKEN_LIFETIME_S_MAX = 7 * 86_400
"""A join token lives a week at most."""
