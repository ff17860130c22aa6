/* Random numbers in their order, by Shell's sort. */
static u32 @NAME@(u32 seed) {
    u32 values[@SIZE@], state = random_state(seed), sum = 0;
    for (u32 i = 0; i < @SIZE@; i++)
        values[i] = next_random(&state);
    for (u32 gap = @SIZE@ / 2; gap > 0; gap /= 2) {
        for (u32 i = gap; i < @SIZE@; i++) {
            u32 value = values[i], at = i;
            for (; at >= gap && values[at - gap] > value; at -= gap)
                values[at] = values[at - gap];
            values[at] = value;
        }
    }
    for (u32 i = 0; i < @SIZE@; i++)
        sum = mix(sum, values[i]);
    return sum;
}
