/* The product of two random square matrices. */
static u32 @NAME@(u32 seed) {
    u32 a[@SIZE@][@SIZE@], b[@SIZE@][@SIZE@], state = random_state(seed), sum = 0;
    for (u32 row = 0; row < @SIZE@; row++) {
        for (u32 column = 0; column < @SIZE@; column++) {
            a[row][column] = next_random(&state);
            b[row][column] = next_random(&state);
        }
    }
    for (u32 row = 0; row < @SIZE@; row++) {
        for (u32 column = 0; column < @SIZE@; column++) {
            u32 cell = 0;
            for (u32 k = 0; k < @SIZE@; k++)
                cell += a[row][k] * b[k][column];
            sum = mix(sum, cell);
        }
    }
    return sum;
}
