/* The lease of a disk's owner: never beside that of the next one.
 *
 * Node A owns the disk and renews its stamp; B wants to take it over. Instants are steps of a clock
 * that may go on at any moment, so everything may take as long as it likes. HELD is what an owner
 * counts a renewal for, from the START of it; AWAITED is how long a stamp must stand still. As rates
 * of clocks differ, AWAITED is longer in truth.
 *
 * Mutants: -DNO_REREAD (P3: B does not look again after it wrote), -DNO_CHECK (A does not look for
 * a higher promise after it renewed), -DFROM_END (a renewal counts from its end), -DSHORT (B waits
 * for less than A counts), -DNO_WAIT (R5).
 */
#ifndef HELD
#define HELD 3
#endif
#ifdef SHORT
#define AWAITED 2
#else
#ifdef NO_WAIT
#define AWAITED 0
#else
#define AWAITED HELD
#endif
#endif
#ifndef END
#define END 11
#endif
#define RENEWALS 4

byte now;
byte stamp;                       /* in A's block, armed */
bit claimed;                      /* B's block promises a higher ballot */
byte lease_a = HELD;              /* A's lease lasts up to here, not including it */
byte lease_b;

#define A_LEADS (now < lease_a)
#define B_LEADS (now < lease_b)

active proctype Clock() {
    do
    :: now < END -> atomic {
        now++; assert(!(A_LEADS && B_LEADS));
        /* What is over is over: fewer states to tell apart. */
        lease_a = (lease_a > now -> lease_a : 0);
        lease_b = (lease_b > now -> lease_b : 0) }
    :: else -> break
    od
}

active proctype A() {
    byte begun;
    bit deposed;
    do
    :: stamp < RENEWALS && !deposed ->
        begun = now;
        stamp++;
#ifndef NO_CHECK
        deposed = claimed;
#endif
        if
        :: deposed -> break
        :: else ->
#ifdef FROM_END
            atomic { lease_a = now + HELD; assert(!(A_LEADS && B_LEADS)) }
#else
            atomic {
                if :: begun + HELD > lease_a -> lease_a = begun + HELD :: else fi;
                assert(!(A_LEADS && B_LEADS))
            }
#endif
        fi
    :: break                      /* dies */
    od
}

active proctype B() {
    byte seen, since, begun;
read:
    seen = stamp;                 /* what the reading finds */
    since = now;                  /* when it ended */
wait:
    if
    :: now >= since + AWAITED
    :: stamp != seen -> goto read /* another reading shows that it moved */
    :: now == END -> goto over
    fi;
    begun = now;
    claimed = 1;                  /* P2 */
#ifndef NO_REREAD
    if                            /* P3 */
    :: stamp != seen -> claimed = 0; goto read
    :: else
    fi;
#endif
    atomic { lease_b = begun + HELD; assert(!(A_LEADS && B_LEADS)) }
over:
    skip
}
