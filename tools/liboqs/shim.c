/*
 * Two functions that liboqs 0.13 lacks, linked into our liboqs.so.
 *
 * OQS_SIG_supports_ctx_str       wanted by liboqs-python 0.16 when it is imported.
 * x0t_ml_dsa_65_keypair_derand   FIPS 204 algorithm 6 (KeyGen_internal): liboqs draws the 32-byte seed from its random source,
 *                                so while this call runs its thread, and only that thread, reads the caller's seed from there.
 */
#include <oqs/oqs.h>
#include <string.h>

#define SEED_BYTES 32

void OQS_randombytes_system(uint8_t *out, size_t len); /* in the library, not in its headers */

static _Thread_local const uint8_t *pending_seed;

static void seed_or_system(uint8_t *out, size_t len) {
	if (pending_seed != NULL && len == SEED_BYTES) {
		memcpy(out, pending_seed, SEED_BYTES);
		pending_seed = NULL; /* one draw only; anything after it is random */
		return;
	}
	OQS_randombytes_system(out, len);
}

__attribute__((constructor)) static void install_random_source(void) {
	OQS_randombytes_custom_algorithm(seed_or_system);
}

__attribute__((visibility("default"))) bool OQS_SIG_supports_ctx_str(const char *name) {
	OQS_SIG *sig = OQS_SIG_new(name);
	bool answer = sig != NULL && sig->sig_with_ctx_support;
	OQS_SIG_free(sig);
	return answer;
}

/* OQS_ERROR when the seed was not the one thing drawn, for then the key is not the seed's. */
__attribute__((visibility("default"))) OQS_STATUS x0t_ml_dsa_65_keypair_derand(uint8_t *public_key, uint8_t *secret_key,
                                                                              const uint8_t *seed) {
	pending_seed = seed;
	OQS_STATUS status = OQS_SIG_ml_dsa_65_keypair(public_key, secret_key);
	bool drawn = pending_seed == NULL;
	pending_seed = NULL;
	return drawn ? status : OQS_ERROR;
}
