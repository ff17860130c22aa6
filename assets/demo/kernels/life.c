/* How many cells of Conway's game live after each of some generations, on a board without edges. */
static u32 @NAME@(u32 seed) {
    static unsigned char board[2][@SIZE@][@SIZE@];
    u32 state = random_state(seed), sum = 0;
    for (u32 y = 0; y < @SIZE@; y++)
        for (u32 x = 0; x < @SIZE@; x++)
            board[0][y][x] = next_random(&state) % 3 == 0;
    for (u32 generation = 0; generation < 8; generation++) {
        u32 now = generation % 2, next = 1 - now, living = 0;
        for (u32 y = 0; y < @SIZE@; y++) {
            for (u32 x = 0; x < @SIZE@; x++) {
                u32 neighbours = 0;
                for (u32 dy = @SIZE@ - 1; dy <= @SIZE@ + 1; dy++)
                    for (u32 dx = @SIZE@ - 1; dx <= @SIZE@ + 1; dx++)
                        neighbours += board[now][(y + dy) % @SIZE@][(x + dx) % @SIZE@];
                neighbours -= board[now][y][x];
                board[next][y][x] = neighbours == 3 || (neighbours == 2 && board[now][y][x]);
                living += board[next][y][x];
            }
        }
        sum = mix(sum, living);
    }
    return sum;
}
