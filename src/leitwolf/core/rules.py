"""The safety rules by name, so that tests can switch each one off and see that it is needed.

A rule acts where the code asks ``rules.holds("name")``. Processes run with
:data:`ALL_RULES`; only tests and the simulator build others. A rule that can be switched off
without any test noticing is either superfluous or untested. Standard library only.
"""

from __future__ import annotations

__all__ = ["ALL_RULES", "RULES", "Rules"]

RULES: dict[str, str] = {
    # --- guard: acceptor -------------------------------------------------------------------------
    "promise-while-renewed": (
        "R5: a node helps another candidate while it is bound to the leader: two leader leases"
    ),
    "restart-wait": (
        "R5, L3: a guard without its page votes at once, forgetting whom its predecessor promised"
    ),
    "page-before-ack": (
        "L3: a guard that dies after an acknowledgement comes back without the promise in it"
    ),
    "floor": "L3: a node renews a leader that it has already helped to replace",
    "freed-mark": (
        "L8: the next leader takes a released promise for one that ran out, and moves the groups "
        "of the former leader while its run-lease lasts"
    ),
    # --- guard: office ---------------------------------------------------------------------------
    "office-floor": "L4: a node acts as leader in a ballot that it promised not to help any more",
    "renew-self-first": (
        "L2: the leader's own node counts for its lease without being bound by a promise"
    ),
    "joint-lease": (
        "L2, I12: during a change of members the lease is backed by one configuration only, while "
        "a candidate can win in the other"
    ),
    "lease-from-send": (
        "L2: an acknowledgement that was long under way prolongs the leader lease beyond the "
        "promise that it confirms"
    ),
    "grant-under-lease": "L5: a leader that was replaced goes on prolonging run-leases",
    "exclude-stops-grants": "L6: a node whose groups are being taken away is prolonged further",
    "horizon": "L6: the groups of a silent node move while its run-lease lasts",
    "attest-ballot": (
        "L7: an old attest, for another lease than the one on the roster, counts as a clean stop"
    ),
    "release-stops-counting": "L8: a leader keeps its lease after it freed everybody's promise",
    "daemon-progress": "L12: a leader whose daemon hangs stays leader, and nobody decides",
    "promise-known": (
        "L3: a guard confirms a longer promise than it waits for when it lost its page, since its "
        "node does not know the longer profile yet"
    ),
    "leader-has-streams": (
        "L12: a leader whose streams are broken while its heartbeats pass stays leader, and nobody "
        "decides"
    ),
    "own-lease-cut": (
        "L5: a new leader keeps the long run-lease of its predecessor, which outlives the promises"
    ),
    # --- guard: run-lease ------------------------------------------------------------------------
    "own-incarnation": (
        "L5: a grant meant for the guard's predecessor opens a lease whose page was lost"
    ),
    "lease-ended-stays-closed": "L5, I11: a late grant revives a lease that was given up",
    "kill-before-end": "L7: the stop begins when the lease is over instead of K earlier",
    "attest-after-stopped": "L7: a node attests the stop while its processes still run",
    "slept": "L1: leases go on after a suspend, during which the clock stood still",
    "rates": "A3: a holder with a slow clock outlasts those who wait with a fast one",
    # --- change of the profile -------------------------------------------------------------------
    "former-profile": (
        "L6, L10: after a change to a shorter profile a lease of the longer one is not waited for"
    ),
    "shorter-profile-first": (
        "L6, L10: a leader grants longer leases than the next one, which does not know, waits for"
    ),
    # --- driver of the guard, host ---------------------------------------------------------------
    "arm-in-time": (
        "L9: a guard frozen between computing and arming opens the gate beyond the lease"
    ),
    "host-permit": "L7: the host starts what was ordered under a lease that is over",
    "attested-generation": "I11: a late order starts a generation that was attested as stopped",
    "attest-when-empty": "L7: the host attests a group while something of it runs",
    # --- quorum core -----------------------------------------------------------------------------
    "promise-above": "R1: a node helps an older candidate after it promised a newer one",
    "up-to-date": "R2: a candidate that lacks committed entries becomes leader and overwrites them",
    "accept-at-promised": "R3: a deposed leader goes on writing where a newer one was promised",
    "durable-before-reply": "R4: what was confirmed is forgotten in a crash",
    "fence-before-promise": (
        "L3: a node promises a candidate while its guard is bound to the leader, or without a guard"
    ),
    "floor-before-accept": (
        "I13: a node promises a leader durably, by accepting from it, before its own guard knows"
    ),
    "candidate-own-promise": "L4: a candidate helps itself while its guard is bound to the leader",
    "noop-first": (
        "a leader decides and answers before its first entry committed, knowing less than was "
        "acknowledged before its term"
    ),
    "answer-after-commit": (
        "a request is answered before its entry is committed, and lost with the leader"
    ),
    "own-ballot-commit": (
        "an entry of an earlier ballot counts as committed by its copies, and is overwritten later"
    ),
    "joint-and": "during a change of members one configuration decides without the other",
    "learner-no-vote": "a learner's copy or promise makes a quorum that others do not meet",
    "leader-durable-counts": "a leader counts its own entry before it is on its disk",
    "votes-jointly": (
        "a leader gives itself the only vote while the former voters elect another: both decide"
    ),
    "votes-within-reach": (
        "L10: votes go where nobody is within reach: the leader ends its own office, and no other "
        "can be elected"
    ),
    "config-at-append": (
        "a configuration holds only when committed: two that are no neighbours decide at once"
    ),
    "removed-never-leads": (
        "a node that was removed while it was off adopts that from a disk, and leads all the same"
    ),
    # --- passive acceptors ------------------------------------------------------------------------
    "stamp-wait": "R5: a challenger takes a disk while its owner's lease rests on it",
    "object-promise": (
        "R1: a candidate replaces a newer promise at a witness: both lead, and one overwrites what "
        "the other one committed"
    ),
    "disk-outbid": (
        "P1: a candidate that was outbid writes all the same, and learns only from P3 that it must "
        "not be promised: it campaigns for longer"
    ),
    "disk-claim": (
        "P2: who reads the disk again without having written what it promises is seen by nobody: "
        "two candidates both think they won"
    ),
    "disk-reread": (
        "P3: who wrote does not look whether another wrote meanwhile: both think they won"
    ),
    "renewed-before-promise": (
        "L6: a stamp that is armed behind a promise, and never counts, is taken for the last "
        "leader's: what its owner runs by another's lease is started elsewhere"
    ),
    "disk-adopt": "P4: a new owner lacks what only the disk holds, and overwrites it",
    "committed-stays": (
        "P4: a candidate adopts from a disk that was away what contradicts an entry that others "
        "committed meanwhile, and ends"
    ),
    "region-bounded": (
        "I10: who takes a disk over reads all that its owner ever wrote, until the leases of the "
        "other nodes are over, and longer than a campaign lasts"
    ),
    "adopted-once": "I9: who read a region for too long a campaign reads it again in every other",
    "adopted-in-ballot": (
        "P2: what was read for a former campaign answers the present one, whose promise no disk "
        "holds yet"
    ),
    "second-copy": (
        "W1: a bad sector or a write that loses its power takes the only copy of a block, and what "
        "was promised there: the disk counts no more"
    ),
    "fresh-reads": (
        "a share that answers from a cache is taken as a disk (the self-test refuses it): a "
        "candidate does not see what another one promised meanwhile"
    ),
    "conditions-kept": (
        "a store that ignores conditions, or a share whose locks are lost, is taken as a witness "
        "(the self-test refuses it): two nodes get the same office"
    ),
    "armed-before-counted": (
        "L2: a lease rests on a stamp that does not stand on the disk or witness yet"
    ),
    "tag-compare": "R2: a candidate becomes leader without entries that the witness knows of",
    "tag-durable": (
        "I9: a witness names an entry that its writer loses in a crash, and refuses it for ever"
    ),
    "tag-backed": (
        "I9: a leader without a quorum has a witness name its last entry, which then refuses those "
        "who are one with it"
    ),
    "silence-bounded": (
        "L14: a slow disk has its owner waited for longer than the others' leases last: their "
        "groups stop"
    ),
    "silence-outlasts": (
        "a stamp asks for less silence than an earlier renewal still counts: two leader leases"
    ),
    "fence-former-owner": (
        "what a former owner had on its way when it was frozen changes what the new one adopted"
    ),
    "fence-evicted": "what an evicted node had on its way when it was frozen reaches the disk",
    "evicted-writes-nothing": "an evicted node that never heard of it goes on writing to the disk",
    "witness-memory": (
        "a disk or witness that was restored from an older copy counts, without what it forgot"
    ),
    "witness-record": (
        "a restarted node believes a witness that was restored from an older copy meanwhile"
    ),
    "witness-distrust": (
        "a disk that forgot something is left by who noticed it, and counts for all others"
    ),
    "drop-before-disarm": "a lease rests on a stamp that challengers need not wait for any more",
    # --- forced quorum ---------------------------------------------------------------------------
    "lineage": (
        "L11: nodes of two histories take each other for members of one: logs that parted mix"
    ),
    "lineage-nonce": (
        "L11: two halves that were both forced have the same epoch, and are taken for one history"
    ),
    "close-before-answer": (
        "L11: a node answers the leader of a forced history while its former lease is open"
    ),
    "force-silence": "L11: quorum is forced while others are heard, who go on: two owners",
    "force-wait": "L11: forced nodes start what still runs under a lease that is not over",
    "force-freshest": (
        "L11: a forced node lacks entries that another one knows as committed, and overwrites them"
    ),
    "force-compares-shared": (
        "L11: who forces again takes the entry of a force that got stuck for newer than what "
        "others know as committed, and overwrites it"
    ),
    "force-asks-again": (
        "L11: quorum is forced by what the named nodes said before the silence: they have found a "
        "quorum without this node since"
    ),
    "force-in-turn": "L11: two nodes force a quorum of the same nodes at once: neither is reached",
    "order-after-durable": (
        "L11: a node obeys an order before its history is durable anywhere, and is in one that "
        "nobody began"
    ),
    "force-looks": "L11: quorum is forced while a leader lives at the witness: two owners",
    "leader-shows": (
        "L11: a leader that needs no witness is not seen there by who is cut off and forced"
    ),
    "heartbeat-when-established": (
        "L11: a leader of a forced history that comes to nothing has a living majority close all"
    ),
    "forced-entry-first": (
        "L11: a node that obeyed an order leads before it knows who votes in its new history"
    ),
    "join-only": "a node that was started to join only forms a cluster by itself",
    "truncate-conflict": "a node keeps what an older leader wrote instead of the leader's entry",
}
"""Name -> what breaks without it."""


class Rules:
    """The rules that hold; all but those named to :meth:`without`."""

    __slots__ = ("_off",)

    def __init__(self, off: frozenset[str] = frozenset()) -> None:
        self._off = off

    def __repr__(self) -> str:
        return f"Rules(without {sorted(self._off)})" if self._off else "Rules(all)"

    @property
    def off(self) -> frozenset[str]:
        """Names of the rules that are switched off."""
        return self._off

    def holds(self, name: str) -> bool:
        """Return whether the rule is in force."""
        return name not in self._off

    @staticmethod
    def without(*names: str) -> Rules:
        """Return all rules but these.

        Raises:
            ValueError: a name is not in :data:`RULES`.
        """
        unknown = sorted(set(names) - RULES.keys())
        if unknown:
            raise ValueError(f"unknown rules: {', '.join(unknown)}")
        return Rules(frozenset(names))


ALL_RULES = Rules()
