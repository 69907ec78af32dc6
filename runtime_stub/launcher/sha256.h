/* SHA-256 (FIPS 180-4), with the processor's own instructions where there are any. */
#ifndef SATCHEL_SHA256_H
#define SATCHEL_SHA256_H

#include <stddef.h>
#include <stdint.h>

#define SHA256_SIZE 32

struct sha256 {
    uint32_t state[8];
    uint64_t length; /* bytes taken in so far */
    uint8_t block[64];
    void (*compress)(uint32_t state[8], const uint8_t *blocks, size_t count);
};

void sha256_start(struct sha256 *hash);
void sha256_update(struct sha256 *hash, const void *data, size_t length);
void sha256_finish(struct sha256 *hash, uint8_t digest[SHA256_SIZE]);

/* All of it in one call. */
void sha256_of(const void *data, size_t length, uint8_t digest[SHA256_SIZE]);

#endif
