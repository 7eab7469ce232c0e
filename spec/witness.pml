/* A witness that is armed only when it is needed: two nodes and an object with compare-and-swap.
 *
 * A leads. Its lease rests on B's promise, and while it is armed on its stamp at the witness; either
 * makes a quorum with A itself. B becomes leader by its own promise and the witness. Heartbeats may
 * be lost, and everything takes as long as it likes.
 *
 * Mutants: -DKEEP (the lease is not given up before the stamp is disarmed), -DNO_WAIT (an armed
 * stamp is not waited for), -DNO_PROMISE (B helps itself while it is bound to A), -DSHORT (B waits
 * for less than A counts), -DBLIND (B writes over what it has not read).
 */
#ifndef HELD
#define HELD 2
#endif
#ifdef SHORT
#define AWAITED 1
#else
#define AWAITED HELD
#endif
#ifndef END
#define END 5
#endif
#define WRITES 2
#define BEATS 2

byte now;
byte version;                     /* of the object */
bit armed, taken;                 /* what stands in it: A is armed; B replaced it */
byte by_ack = HELD;               /* A's lease by B's promise, and by its stamp */
byte by_stamp;
byte bound = AWAITED;             /* until then B promised not to help anybody else */
bit fenced;                       /* B promised itself */
bit b_leads;

#define SAFE !(b_leads && (now < by_ack || now < by_stamp))

active proctype Clock() {
    do
    :: now < END -> atomic {
        now++; assert(SAFE);
        /* What is over is over: fewer states to tell apart. */
        by_ack = (by_ack > now -> by_ack : 0);
        by_stamp = (by_stamp > now -> by_stamp : 0);
        bound = (bound > now -> bound : 0) }
    :: else -> break
    od
}

active proctype Heartbeats() {
    byte sent, beats;
    do
    :: beats < BEATS ->
        atomic { beats++; sent = now };
        if
        :: atomic { !fenced -> bound = now + AWAITED }
        :: skip; goto lost
        fi;
        if
        :: atomic { by_ack = sent + HELD; sent = 0; assert(SAFE) }
        :: skip
        fi;
lost:   sent = 0
    :: break
    od
}

active proctype Stamp() {
    byte begun, writes, known;
    bit mine = 1;
    do
    :: writes < WRITES && mine ->                       /* arm, or renew */
        atomic { writes++; begun = now };
        if
        :: d_step { !taken -> version++; armed = 1 }
        :: taken -> mine = 0; goto next
        fi;
        atomic { by_stamp = begun + HELD; assert(SAFE) }
next:   begun = 0
    :: writes < WRITES && mine && armed ->              /* disarm */
        writes++;
#ifndef KEEP
        by_stamp = 0;
#endif
        if
        :: d_step { !taken -> version++; armed = 0 }
        :: taken -> mine = 0
        fi
    :: break
    od
}

active proctype B() {
    byte seen, since;
    bit was_armed;
read:
    atomic { seen = version; was_armed = armed };
    since = now;
    if
#ifdef NO_PROMISE
    :: fenced = 1
#else
    :: atomic { fenced || now >= bound -> fenced = 1 }
#endif
    :: now == END -> goto over
    fi;
#ifndef NO_WAIT
    if
    :: !was_armed || now >= since + AWAITED
    :: version != seen -> goto read
    :: now == END -> goto over
    fi;
#endif
    if
#ifdef BLIND
    :: atomic { taken = 1; version++; b_leads = 1; assert(SAFE) }
#else
    :: atomic { version == seen -> taken = 1; version++; b_leads = 1; assert(SAFE) }
    :: version != seen -> goto read
#endif
    fi;
over:
    skip
}
