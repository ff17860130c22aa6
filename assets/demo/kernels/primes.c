/* How many primes there are up to a bound. */
static u32 @NAME@(u32 seed) {
    static unsigned char composite[@SIZE@ + 1];
    u32 bound = @SIZE@ - seed % 100, count = 0;
    for (u32 n = 0; n <= bound; n++)
        composite[n] = 0;
    for (u32 n = 2; n <= bound; n++) {
        if (composite[n])
            continue;
        count++;
        for (u32 multiple = n * n; multiple <= bound; multiple += n)
            composite[multiple] = 1;
    }
    return count;
}
