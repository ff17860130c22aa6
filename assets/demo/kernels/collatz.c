/* The start up to a bound whose Collatz chain is the longest, and how long it is. */
static u32 @NAME@(u32 seed) {
    u32 bound = @SIZE@ - seed % 100, best = 1, longest = 0;
    for (u32 start = 1; start <= bound; start++) {
        u64 value = start;
        u32 length = 0;
        while (value != 1) {
            value = value % 2 == 1 ? 3 * value + 1 : value / 2;
            length++;
        }
        if (length > longest) {
            longest = length;
            best = start;
        }
    }
    return mix(best, longest);
}
