/* How many letters must be changed, added or removed to make one random word of another. */
static u32 @NAME@(u32 seed) {
    u32 from[@SIZE@], to[@SIZE@], row[@SIZE@ + 1], state = random_state(seed);
    for (u32 i = 0; i < @SIZE@; i++) {
        from[i] = next_random(&state) % 4;
        to[i] = next_random(&state) % 4;
        row[i + 1] = i + 1;
    }
    row[0] = 0;
    for (u32 i = 0; i < @SIZE@; i++) {
        u32 diagonal = row[0];
        row[0] = i + 1;
        for (u32 j = 0; j < @SIZE@; j++) {
            u32 least = diagonal + (from[i] != to[j]);
            if (row[j] + 1 < least)
                least = row[j] + 1;
            if (row[j + 1] + 1 < least)
                least = row[j + 1] + 1;
            diagonal = row[j + 1];
            row[j + 1] = least;
        }
    }
    return row[@SIZE@];
}
