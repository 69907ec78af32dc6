/* Of two numbers. */
#pragma once

#include <stdint.h>

static inline int64_t smaller_of(int64_t one, int64_t other) { return one < other ? one : other; }
static inline int64_t larger_of(int64_t one, int64_t other) { return one > other ? one : other; }
