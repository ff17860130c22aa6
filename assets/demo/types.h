#ifndef COMMON_TYPES_H
#define COMMON_TYPES_H

typedef unsigned int u32;
typedef unsigned long long u64;

#endif
