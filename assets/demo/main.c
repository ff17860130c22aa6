/* Runs the modules that are named, or all of them, and prints what each comes to.
   usage: harvest [MODULE] [ROUNDS] */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

@INCLUDES@
static const struct {
    const char *name;
    u32 (*run)(void);
} modules[] = {
@MODULES@};

/* The value of a module, which must be the same in every round. */
static u32 run(const char *name, u32 (*module)(void), int rounds) {
    u32 value = module();
    for (int round = 2; round <= rounds; round++) {
        if (module() != value) {
            printf("%s is not the same in round %d\n", name, round);
            exit(1);
        }
        if (round % 20 == 0) {
            printf("%s: %d rounds of %d\n", name, round, rounds);
            fflush(stdout);
        }
    }
    return value;
}

int main(int argc, char **argv) {
    const char *wanted = argc > 1 ? argv[1] : "all";
    int rounds = argc > 2 ? atoi(argv[2]) : 1;
    u32 total = 0;
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) {
        if (strcmp(wanted, "all") != 0 && strcmp(wanted, modules[i].name) != 0)
            continue;
        u32 value = run(modules[i].name, modules[i].run, rounds);
        printf("%s %u\n", modules[i].name, value);
        total = mix(total, value);
    }
    printf("total %u\n", total);
    return 0;
}
