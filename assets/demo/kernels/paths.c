/* How many ways lead across a field with random stones, down and to the right only. */
static u32 @NAME@(u32 seed) {
    u32 ways[@SIZE@], state = random_state(seed);
    for (u32 x = 0; x < @SIZE@; x++)
        ways[x] = x == 0;
    for (u32 y = 0; y < @SIZE@; y++) {
        for (u32 x = 0; x < @SIZE@; x++) {
            u32 is_stone = next_random(&state) % 9 == 0;
            u32 from_left = x > 0 ? ways[x - 1] : 0;
            ways[x] = is_stone ? 0 : ways[x] + from_left;
        }
    }
    u32 sum = 0;
    for (u32 x = 0; x < @SIZE@; x++)
        sum = mix(sum, ways[x]);
    return sum;
}
