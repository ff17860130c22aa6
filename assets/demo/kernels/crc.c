/* The CRC-32 of random bytes. */
static u32 @NAME@(u32 seed) {
    u32 state = random_state(seed), crc = ~0u;
    for (u32 i = 0; i < @SIZE@; i++) {
        crc ^= next_random(&state) & 0xff;
        for (u32 bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ 0xedb88320u : crc >> 1;
    }
    return ~crc;
}
