/* Features of bars, compiled for one features block: the bits of pipeline.features.engine.Stream. x86-64 with AVX2. */
#ifndef FEATURE_UPDATE_H
#define FEATURE_UPDATE_H
#include <stddef.h>
#include <stdint.h>

size_t features_count_fields(void);       /* of a bar */
const char *features_get_field(size_t i); /* its name; NULL beyond the last */
size_t features_count_columns(void);
const char *features_get_column(size_t i);
size_t features_count_warm_up_bars(void); /* of a segment, which have no features */
size_t features_get_state_size(void);     /* in bytes */

/* Fill a state, aligned to 8 bytes, with that before the first bar of a segment. */
void features_start(void *state);

/* Take a closed bar, its fields as double; one that bars lack is NaN. Fill `columns`; return the segment's bars so far.
   The columns are defined once that is above features_count_warm_up_bars(). The bar must be valid: finite prices above
   0, amounts of 0 or more, one interval after the last one. A state may be copied and stored; one thread uses it. */
int64_t features_update(void *state, const double *bar, float *columns);
#endif
