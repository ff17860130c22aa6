#ifndef COMMON_RANDOM_H
#define COMMON_RANDOM_H

#include "common/types.h"

/* Where the sequence of a seed begins; never 0. */
static inline u32 random_state(u32 seed) {
    return (seed * 2654435761u) | 1;
}

/* The next number of a sequence. */
static inline u32 next_random(u32 *state) {
    u32 x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

/* One more value in a sum that depends on their order. */
static inline u32 mix(u32 sum, u32 value) {
    return (sum ^ value) * 16777619u;
}

#endif
