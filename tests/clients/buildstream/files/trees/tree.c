#include <stdio.h>

int main(void) {
    printf("a %s\n", TREE);
    return 0;
}
