/* A shared disk as the only acceptor (P1-P4): agreement, and no committed entry is lost.
 *
 * One block per node in two copies, written one after the other; a node that dies while it writes a
 * copy leaves it damaged, and goes on with its own log. Readers take the newest whole copy. A block
 * holds the promise and the log that its node accepted. Ballot b belongs to node b % N.
 *
 * Mutants: -DNO_REREAD (P3, and after every append), -DNO_ADOPT (P4), -DONE_COPY (P2), -DNO_MEND (W2: a
 * new process leaves a damaged copy as it is), -DACK_FIRST (an entry counts before it is written),
 * -DEARLY_COPY (what was copied before the own promise stood there is not copied again, either).
 */
#ifndef N
#define N 2
#endif
#ifndef BALLOTS
#define BALLOTS 4
#endif
#ifndef LENGTH
#define LENGTH 2
#endif
#ifndef CRASHES
#define CRASHES 2
#endif
#ifdef ONE_COPY
#define COPIES 1
#else
#define COPIES 2
#endif

typedef Log { byte n; byte e[LENGTH] }         /* ballots of the entries */
typedef Block { bit whole; byte sequence; byte promised; Log log }
typedef Pair { Block copy[COPIES] }

Pair disk[N];
Log own[N];                                    /* durable on each node */
Log committed;
byte committed_in[LENGTH];                     /* ballot of the leader that committed it first */
byte crashes;

#define LAST(log) (log.n -> log.e[log.n - 1] : 0)
#define NEWER(a, b) (LAST(a) > LAST(b) || (LAST(a) == LAST(b) && a.n > b.n))

inline copy_log(to, from) {
    to.n = from.n;
    for (k : 0 .. LENGTH - 1) { to.e[k] = from.e[k] }
}

/* The newest whole copy of a node's block, into `block`. */
inline read_block(node) {
    d_step {
        block.whole = 0; block.sequence = 0; block.promised = 0; block.log.n = 0;
        for (k : 0 .. LENGTH - 1) { block.log.e[k] = 0 }
        for (c : 0 .. COPIES - 1) {
            if
            :: disk[node].copy[c].whole && disk[node].copy[c].sequence > block.sequence ->
                block.sequence = disk[node].copy[c].sequence;
                block.promised = disk[node].copy[c].promised;
                copy_log(block.log, disk[node].copy[c].log)
            :: else
            fi
        }
        c = 0; k = 0
    }
}

/* Read the other nodes' blocks one after the other; a higher promise ends the campaign or office. */
inline look(out) {
    o = 0;
    do
    :: o == N -> o = 0; break
    :: o < N && o == me -> o++
    :: o < N && o != me ->
        read_block(o);
        if
        :: block.promised > b -> o = 0; goto out
        :: else -> o++
        fi
    od;
    skip
}

/* Copy what the best block holds beyond the own log. A log of which all was copied, or written, once
 * is not copied again: behind a promise above its ballot nothing more of it counts. */
inline adopt() {
    copy_log(best, accepted);
    o = 0;
    do
    :: o == N -> o = 0; break
    :: o < N && o == me -> o++
    :: o < N && o != me ->
        read_block(o);
        d_step {
            if
            :: NEWER(block.log, best) && LAST(block.log) != copied -> copy_log(best, block.log)
            :: else
            fi;
            o++; k = 0
        }
    od;
    skip;
    d_step {
        if
        :: NEWER(best, own[me]) -> copy_log(own[me], best)
        :: else
        fi;
        if
        :: LAST(best) > copied && LAST(best) < b -> copied = LAST(best)
        :: else
        fi;
        k = 0
    }
}

/* Write the own block with promise `b` and the own log, copy after copy. */
inline write_block(dies) {
    sequence++;
    i = 0;
    do
    :: i < COPIES ->
        disk[me].copy[i].whole = 0;
        if
        :: d_step {
            disk[me].copy[i].sequence = sequence;
            disk[me].copy[i].promised = b;
            copy_log(disk[me].copy[i].log, accepted);
            disk[me].copy[i].whole = 1; i++; k = 0 }
        :: crashes < CRASHES -> crashes++; i = 0; goto dies
        fi
    :: i == COPIES -> i = 0; break
    od;
    skip
}

inline commit() {
    d_step {
        for (k : 0 .. LENGTH - 1) {
            if
            :: k < own[me].n && k < committed.n -> assert(committed.e[k] == own[me].e[k])
            :: k < own[me].n && k >= committed.n -> committed.e[k] = own[me].e[k]; committed_in[k] = b
            :: else
            fi
        }
        if :: own[me].n > committed.n -> committed.n = own[me].n :: else fi;
        k = 0
    }
}

inline complete() {
    d_step {
        for (k : 0 .. LENGTH - 1) {
            assert(k >= committed.n || committed_in[k] > b
                   || (k < own[me].n && own[me].e[k] == committed.e[k]))
        }
        k = 0
    }
}

proctype Node(byte me) {
    byte b, o, i, k, c, sequence, copied;
    Block block;
    Log accepted;                              /* what the own block says is accepted */
    Log best;

start:
    /* A new process reads its own block first. */
    read_block(me);
    d_step { sequence = block.sequence; copy_log(accepted, block.log); k = 0 };
#ifndef NO_MEND
    i = 0;
    do
    :: i == COPIES -> i = 0; break
    :: i < COPIES && disk[me].copy[i].whole && disk[me].copy[i].sequence == sequence -> i++
    :: i < COPIES && !(disk[me].copy[i].whole && disk[me].copy[i].sequence == sequence) ->
        disk[me].copy[i].whole = 0;
        if
        :: d_step {
            disk[me].copy[i].sequence = sequence;
            disk[me].copy[i].promised = block.promised;
            copy_log(disk[me].copy[i].log, block.log);
            disk[me].copy[i].whole = 1; i++; k = 0 }
        :: crashes < CRASHES -> crashes++; i = 0; goto start
        fi
    od;
#endif
    if
    :: b < block.promised -> b = block.promised
    :: else
    fi;
idle:
    if
    :: b + 1 <= BALLOTS ->
        b++;
        if
        :: b % N == me
        :: else -> goto idle
        fi
    :: true -> goto over
    fi;
    look(idle);                                /* P1 */
#ifdef EARLY_COPY
    adopt();
#endif
    write_block(start);                        /* P2 */
#ifndef NO_REREAD
    look(idle);                                /* P3 */
#endif
#ifndef NO_ADOPT
    adopt();                                   /* P4 */
#endif
    complete();
    do
    :: own[me].n < LENGTH ->
        d_step { own[me].e[own[me].n] = b; own[me].n++ };
#ifdef ACK_FIRST
        commit();
#endif
        d_step { copy_log(accepted, own[me]); k = 0 };
        write_block(start);
#ifndef NO_REREAD
        look(idle);                            /* a higher promise: deposed, nothing is told */
#endif
        commit()
    :: goto idle                               /* steps down, or its daemon dies */
    od;
over:
    skip
}

init {
    atomic { byte n; for (n : 0 .. N - 1) { run Node(n) } }
}
