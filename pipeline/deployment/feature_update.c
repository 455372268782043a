/* The functions of feature_update.h. layout.h is generated: the names, windows and first state of one features block,
   and the symbol of the update that numba compiled. */
#include "feature_update.h"
#include <stdlib.h>
#include <string.h>

/* (plans, memory, chunk, bar, columns, 0, 1) -> bars of the segment so far */
extern int64_t update(const int64_t *, double *, double *, const double *, float *, int64_t, int64_t)
    __asm__(UPDATE_SYMBOL);

/* Functions of Python and numba on paths that no update takes; a program that did would stop. */
#define STOP(name) void name(void) { abort(); }
RUNTIME

static const int64_t plans[] = {PLANS};
static const double memory[MEMORY_CELLS] = {MEMORY};
static const char *const fields[] = {FIELDS};
static const char *const columns[] = {COLUMNS};
#define COUNT(array) (sizeof array / sizeof array[0])

size_t features_count_fields(void) { return COUNT(fields); }
const char *features_get_field(size_t i) { return i < COUNT(fields) ? fields[i] : NULL; }
size_t features_count_columns(void) { return COUNT(columns); }
const char *features_get_column(size_t i) { return i < COUNT(columns) ? columns[i] : NULL; }
size_t features_count_warm_up_bars(void) { return WARM_UP_BARS; }
size_t features_get_state_size(void) { return sizeof memory + CHUNK_CELLS * sizeof(double); }

void features_start(void *state) {
    memset(state, 0, features_get_state_size());
    memcpy(state, memory, sizeof memory);
}

int64_t features_update(void *state, const double *bar, float *into) {
    double *cells = state;
    return update(plans, cells, cells + MEMORY_CELLS, bar, into, 0, 1);
}
