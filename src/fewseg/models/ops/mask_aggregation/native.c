/* Attention whose value is a mask, scores never stored. Its interface is `aggregate` below; native.py calls it.
 *
 * Queries lie along the lanes of a vector, keys along the registers, so that the running sums of a query need no
 * horizontal step: a block of scores is exponentiated where it was computed and at once multiplied into the sums.
 * Every column of values is a sum; a column of ones in front gives the denominator.
 *
 * The shift under the exponential is not the running maximum. Any shift gives the same quotient as long as nothing
 * overflows and the largest term does not vanish, so it moves only where a score lies SLACK powers of two above it,
 * and where the lengths of the vectors say that none can, scores are not even looked at.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE__)
#include <immintrin.h>
#endif
#if defined(__AMX_BF16__) && defined(__AVX512F__) && defined(__linux__)
#define HAS_TILES 1
#include <sys/syscall.h>
#include <unistd.h>
#else
#define HAS_TILES 0
#endif

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 3, KEYS = 8 };
typedef float vec __attribute__((vector_size(64)));
typedef int32_t ivec __attribute__((vector_size(64)));
#elif defined(__AVX__)
enum { LANES = 8, VECTORS = 2, KEYS = 6 };
typedef float vec __attribute__((vector_size(32)));
typedef int32_t ivec __attribute__((vector_size(32)));
#else
enum { LANES = 4, VECTORS = 3, KEYS = 6 };
typedef float vec __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(16)));
#endif

#define SLACK 40.0f
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

typedef struct {
    const void *query, *key; /* (B, Nq, H * d) and (B, Nk, H * d), float or bfloat16, last stride 1 */
    const float *values;     /* (B, Nk, V) */
    float *out, *lse;        /* (B, H, Nq, V) and (B, H, Nq), contiguous */
    int64_t query_batch, query_token, key_batch, key_token, value_batch, value_token, value_column; /* strides */
    int64_t batch, heads, queries, keys, width, columns;
    float scale;
    int32_t half, threads; /* half: bfloat16 by tiles */
} Task;

/* What one thread works on: a head of one picture, some of its queries. */
typedef struct {
    int64_t b, h, first, count;
} Part;

typedef struct {
    void *query, *key;      /* packed */
    float *weights;         /* (keys of a block, 1 + V) */
    float *shift, *length;  /* a query each */
    float *sums;            /* (groups, 1 + V, queries of a group) */
    float *scores;          /* two blocks of 32 x 32, tiles only */
} Scratch;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

INLINE vec load(const float *p) { return *(const vec *)p; }
INLINE void store(float *p, vec x) { *(vec *)p = x; }
INLINE vec all(float x) { return x - (vec){0}; }
INLINE vec pick(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

#if defined(__AVX512F__)
INLINE vec larger(vec a, vec b) { return (vec)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE int any_above(vec a, vec b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ) != 0; }
#else
INLINE vec larger(vec a, vec b) { return pick(a > b, a, b); }
INLINE int any_above(vec a, vec b) {
    ivec above = a > b;
    int any = 0;
    for (int i = 0; i < LANES; i++) any |= above[i];
    return any;
}
#endif

/* 2^x, relative error 2e-7; 1e-4 where the scores are of bfloat16 numbers. Minimax polynomials over [0, 1]. */
INLINE vec power2(vec x, int coarse) {
#if defined(__AVX512DQ__)
    vec f = (vec)_mm512_reduce_ps((__m512)x, 0x09); /* x - floor(x) */
#else
    const float magic = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded to a whole number */
    x = pick(x < -126.0f, all(-126.0f), x);
    vec whole = (x - 0.5f) + magic;
    vec f = x - (whole - magic);
#endif
    vec p;
    if (coarse) {
        p = all(0.07801867f) * f + 0.22606748f;
        p = p * f + 0.69583446f;
        p = p * f + 0.99992543f;
    } else {
        p = all(0.0018775767f) * f + 0.0089893397f;
        p = p * f + 0.055826318f;
        p = p * f + 0.24015361f;
        p = p * f + 0.69315308f;
        p = p * f + 0.99999994f;
    }
#if defined(__AVX512DQ__)
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)x);
#else
    return (vec)((ivec)p + ((ivec)whole << 23));
#endif
}

/* Raises the shifts of one vector of queries to `above` and scales what they have summed so far accordingly. */
static __attribute__((noinline)) void raise(vec above, float *shift, float *sums, int64_t columns, int64_t group) {
    vec old = load(shift), new = larger(old, above);
    vec factor = power2(old - new, 0);
    for (int64_t c = 0; c <= columns; c++) {
        vec sum = load(sums + c * group);
        store(sums + c * group, pick(sum == 0.0f, sum, sum * factor)); /* the first shift is minus infinity */
    }
    store(shift, new);
}

/* A block of scores x (keys, vectors of queries) into the sums. weights (keys, 1 + V), sums (1 + V, group). */
INLINE void add(int keys, int vectors, vec x[keys][vectors], float scale, const float *weights, int64_t columns,
                float *shift, float *sums, int checked, int coarse) {
    const int64_t group = vectors * LANES;
    if (checked) {
        UNROLL for (int v = 0; v < vectors; v++) {
            vec most = x[0][v];
            UNROLL for (int k = 1; k < keys; k++) most = larger(most, x[k][v]);
            if (any_above(most * scale, load(shift + v * LANES) + SLACK))
                raise(most * scale, shift + v * LANES, sums + v * LANES, columns, group);
        }
    }
    UNROLL for (int v = 0; v < vectors; v++) {
        vec low = load(shift + v * LANES);
        UNROLL for (int k = 0; k < keys; k++) x[k][v] = power2(x[k][v] * scale - low, coarse);
    }
    for (int64_t c = 0; c <= columns; c++) {
        UNROLL for (int v = 0; v < vectors; v++) {
            float *at = sums + c * group + v * LANES;
            vec sum = load(at);
            UNROLL for (int k = 0; k < keys; k++) sum += x[k][v] * weights[k * (columns + 1) + c];
            store(at, sum);
        }
    }
}

/* Scores of a group of queries (width, GROUP) with KEYS keys (width, KEYS), both float and packed. Not inlined: among the
 * caller's variables one of the sums would live in memory, and the loop then waits for it (half the speed with AVX2). */
static __attribute__((noinline)) void block(const float *query, const float *key, int64_t width,
                                            vec out[KEYS][VECTORS]) {
    vec x[KEYS][VECTORS];
    UNROLL for (int k = 0; k < KEYS; k++) UNROLL for (int v = 0; v < VECTORS; v++) x[k][v] = (vec){0};
    for (int64_t i = 0; i < width; i++) {
        vec q[VECTORS];
        UNROLL for (int v = 0; v < VECTORS; v++) q[v] = load(query + (i * VECTORS + v) * LANES);
        UNROLL for (int k = 0; k < KEYS; k++) {
            float one = key[i * KEYS + k];
            UNROLL for (int v = 0; v < VECTORS; v++) x[k][v] += q[v] * one;
        }
    }
    UNROLL for (int k = 0; k < KEYS; k++) UNROLL for (int v = 0; v < VECTORS; v++) out[k][v] = x[k][v];
}

static void sweep_floats(const Task *t, const Scratch *s, int64_t queries, int64_t keys, float longest) {
    const int64_t group = LANES * VECTORS;
    for (int64_t g = 0; g * group < queries; g++) {
        const float *query = (const float *)s->query + g * group * t->width;
        float *shift = s->shift + g * group, *sums = s->sums + g * group * (t->columns + 1);
        int checked = 0;
        for (int v = 0; v < VECTORS; v++)
            checked |= any_above(load(s->length + g * group + v * LANES) * longest, load(shift + v * LANES) + SLACK);
        for (int64_t k = 0; k < keys; k += KEYS) {
            vec x[KEYS][VECTORS];
            block(query, (const float *)s->key + k * t->width, t->width, x);
            const float *weights = s->weights + k * (t->columns + 1);
            if (checked)
                add(KEYS, VECTORS, x, t->scale, weights, t->columns, shift, sums, 1, 0);
            else
                add(KEYS, VECTORS, x, t->scale, weights, t->columns, shift, sums, 0, 0);
        }
    }
}

INLINE float widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static float length_of(const void *row, int64_t width, int half) {
    const float *floats = row;
    const uint16_t *halves = row;
    float square = 0;
    if (half) {
#pragma omp simd reduction(+ : square)
        for (int64_t i = 0; i < width; i++) square += widen(halves[i]) * widen(halves[i]);
    } else {
#pragma omp simd reduction(+ : square)
        for (int64_t i = 0; i < width; i++) square += floats[i] * floats[i];
    }
    return sqrtf(square);
}

/* Packs one head of float tokens as (groups, width, group); rows past the end repeat the last. */
INLINE void pack_floats(const float *tokens, int64_t stride, int64_t count, int64_t padded, int64_t width,
                        const int64_t group, float *out) {
    for (int64_t n = 0; n < padded; n += group)
        for (int64_t i = 0; i < width; i += 16) /* a line of the cache of every row at a time */
            for (int64_t j = 0; j < group; j++) {
                const float *row = tokens + least(n + j, count - 1) * stride;
                for (int64_t l = i; l < least(i + 16, width); l++) out[(n * width) + l * group + j] = row[l];
            }
}

#if HAS_TILES
enum { SIDE = 32, DEPTH = 32 }; /* scores of 32 keys with 32 queries at a time, 32 numbers of the width a step */

typedef struct {
    uint8_t palette, start, reserved[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} __attribute__((packed)) TileShapes;

static int tiles_allowed(void) { return syscall(SYS_arch_prctl, 0x1023, 18) == 0; }

static void configure_tiles(void) {
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) shapes.bytes[i] = 64, shapes.rows[i] = 16;
    _tile_loadconfig(&shapes);
}

/* Keys as rows of tiles: (keys / 16, width / 32, 16, 32). */
static void pack_tile_keys(const uint16_t *tokens, int64_t stride, int64_t count, int64_t padded, int64_t width,
                           int64_t deep, uint16_t *out) {
    for (int64_t n = 0; n < padded; n++) {
        const uint16_t *row = tokens + least(n, count - 1) * stride;
        uint16_t *to = out + n / 16 * 16 * deep + n % 16 * DEPTH;
        for (int64_t i = 0; i < deep; i += DEPTH, to += 16 * DEPTH) {
            if (i + DEPTH <= width) {
                memcpy(to, row + i, DEPTH * 2);
            } else {
                memset(to, 0, DEPTH * 2);
                memcpy(to, row + i, (width - i) * 2);
            }
        }
    }
}

/* Queries as columns of tiles, neighbours of the width in pairs: (queries / 16, width / 32, 16 pairs, 16, 2). */
static void pack_tile_queries(const uint16_t *tokens, int64_t stride, int64_t count, int64_t padded, int64_t width,
                              int64_t deep, uint16_t *out) {
    memset(out, 0, padded * deep * 2);
    for (int64_t n = 0; n < padded; n++) {
        const uint16_t *row = tokens + least(n, count - 1) * stride;
        uint16_t *to = out + n / 16 * 16 * deep + n % 16 * 2;
        for (int64_t i = 0; i + 1 < width; i += 2) memcpy(to + i / 2 * 32, row + i, 4);
        if (width % 2) to[width / 2 * 32] = row[width - 1];
    }
}

/* Scores of 32 queries with 32 keys, (32 keys, 32 queries). */
INLINE void tile_block(const uint16_t *query, const uint16_t *key, int64_t deep, float *scores) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t i = 0; i < deep * 16; i += 16 * DEPTH) {
        _tile_loadd(4, key + i, 64);
        _tile_loadd(6, query + i, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, query + 16 * deep + i, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, key + 16 * deep + i, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, scores, SIDE * 4);
    _tile_stored(1, scores + 16, SIDE * 4);
    _tile_stored(2, scores + 16 * SIDE, SIDE * 4);
    _tile_stored(3, scores + 16 * SIDE + 16, SIDE * 4);
}

INLINE void add_tile_block(const Task *t, const float *scores, const float *weights, float *shift, float *sums,
                           int checked) {
    for (int64_t k = 0; k < SIDE; k += 8) {
        vec x[8][2];
        UNROLL for (int i = 0; i < 8; i++) {
            x[i][0] = load(scores + (k + i) * SIDE);
            x[i][1] = load(scores + (k + i) * SIDE + 16);
        }
        add(8, 2, x, t->scale, weights + k * (t->columns + 1), t->columns, shift, sums, checked, 1);
    }
}

/* The tiles of the next block are multiplied while the last block's scores are exponentiated. */
static void sweep_tiles(const Task *t, const Scratch *s, int64_t queries, int64_t keys, int64_t deep, float longest) {
    for (int64_t g = 0; g < queries; g += SIDE) {
        const uint16_t *query = (const uint16_t *)s->query + g * deep, *key = s->key;
        float *shift = s->shift + g, *sums = s->sums + g * (t->columns + 1);
        int checked = 0;
        for (int v = 0; v < SIDE; v += 16)
            checked |= any_above(load(s->length + g + v) * longest, load(shift + v) + SLACK);
        tile_block(query, key, deep, s->scores);
        for (int64_t k = 0; k < keys; k += SIDE) {
            int64_t turn = k / SIDE % 2 * SIDE * SIDE;
            if (k + SIDE < keys) tile_block(query, key + (k + SIDE) * deep, deep, s->scores + (SIDE * SIDE - turn));
            const float *weights = s->weights + k * (t->columns + 1);
            if (checked)
                add_tile_block(t, s->scores + turn, weights, shift, sums, 1);
            else
                add_tile_block(t, s->scores + turn, weights, shift, sums, 0);
        }
    }
}
#endif

static int64_t up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }

/* Values of some keys behind a column of ones; keys past the end weigh nothing. */
static void pack_weights(const Task *t, int64_t b, int64_t first, int64_t count, int64_t padded, float *out) {
    memset(out, 0, padded * (t->columns + 1) * sizeof(float));
    for (int64_t n = 0; n < count; n++, out += t->columns + 1) {
        const float *from = t->values + b * t->value_batch + (first + n) * t->value_token;
        out[0] = 1;
        for (int64_t c = 0; c < t->columns; c++) out[c + 1] = from[c * t->value_column];
    }
}

static void write_out(const Task *t, const Scratch *s, Part part, int64_t group) {
    for (int64_t n = 0; n < part.count; n++) {
        const float *sums = s->sums + n / group * group * (t->columns + 1) + n % group;
        int64_t row = (part.b * t->heads + part.h) * t->queries + part.first + n;
        for (int64_t c = 0; c < t->columns; c++) t->out[row * t->columns + c] = sums[(c + 1) * group] / sums[0];
        t->lse[row] = (s->shift[n] + log2f(sums[0])) * 0.69314718f;
    }
}

static void work(const Task *t, const Scratch *s, Part part, int64_t key_block) {
    const int64_t group = t->half ? 32 : LANES * VECTORS, step = t->half ? 32 : KEYS, size = t->half ? 2 : 4;
    const int64_t padded = up(part.count, group), deep = t->half ? up(t->width, 32) : t->width;
    const char *query = (const char *)t->query
        + size * (part.b * t->query_batch + part.first * t->query_token + part.h * t->width);
    const char *keys = (const char *)t->key + size * (part.b * t->key_batch + part.h * t->width);
#if HAS_TILES
    if (t->half)
        pack_tile_queries((const uint16_t *)query, t->query_token, part.count, padded, t->width, deep, s->query);
    else
#endif
        pack_floats((const float *)query, t->query_token, part.count, padded, t->width, LANES * VECTORS, s->query);
    for (int64_t n = 0; n < padded; n++)
        s->length[n] = fabsf(t->scale)
            * length_of(query + size * least(n, part.count - 1) * t->query_token, t->width, t->half);
    memset(s->sums, 0, padded * (t->columns + 1) * sizeof(float));
    for (int64_t first = 0; first < t->keys; first += key_block) {
        int64_t count = t->keys - first < key_block ? t->keys - first : key_block, filled = up(count, step);
        const char *from = keys + size * first * t->key_token;
        pack_weights(t, part.b, first, count, filled, s->weights);
        float longest = 0;
        for (int64_t n = 0; n < count; n++)
            longest = fmaxf(longest, length_of(from + size * n * t->key_token, t->width, t->half));
#if HAS_TILES
        if (t->half)
            pack_tile_keys((const uint16_t *)from, t->key_token, count, filled, t->width, deep, s->key);
        else
#endif
            pack_floats((const float *)from, t->key_token, count, filled, t->width, KEYS, s->key);
        if (first == 0) /* zero will do where no score can be far from it; else the first scores decide */
            for (int64_t n = 0; n < padded; n++) s->shift[n] = s->length[n] * longest < SLACK ? 0 : -INFINITY;
#if HAS_TILES
        if (t->half)
            sweep_tiles(t, s, padded, filled, deep, longest);
        else
#endif
            sweep_floats(t, s, padded, filled, longest);
    }
    write_out(t, s, part, group);
}

/* 1 if this machine multiplies bfloat16 by tiles. */
int has_tiles(void) {
#if HAS_TILES
    return tiles_allowed();
#else
    return 0;
#endif
}

/* 1 if several threads work at a task. */
int has_threads(void) {
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

/* 0, or 1 where memory ran out. scale has log2(e) in it. */
int aggregate(const Task *t) {
    const int64_t size = t->half ? 2 : 4, deep = up(t->width, 32), group = t->half ? 32 : LANES * VECTORS;
    const int64_t step = t->half ? 32 : KEYS;
    /* Packed keys of a block and packed queries of a part stay in the processor's second cache. */
    const int64_t key_block = up(least(t->keys, most(32, least(1024, (t->half ? 24576 : 131072) / (deep * size)))), step);
    int64_t part = up(most(96, least(1024, 524288 / (deep * size))), group);
    const int64_t wanted = up(t->queries * t->batch * t->heads / (2 * t->threads) + 1, group);
    part = most(least(part, wanted), least(2 * group, up(t->queries, group)));
    part = least(part, up(t->queries, group));
    const int64_t parts = (t->queries + part - 1) / part, units = t->batch * t->heads * parts;
    int failed = 0;
#pragma omp parallel num_threads(t->threads) if (t->threads > 1)
    {
        const int64_t sizes[] = {part * deep * size, key_block * deep * size, key_block * (t->columns + 1) * 4,
                                 part * 4, part * 4, part * (t->columns + 1) * 4, 2 * 32 * 32 * 4};
        int64_t total = 0;
        for (int i = 0; i < 7; i++) total += up(sizes[i], 64);
        char *memory = aligned_alloc(64, total), *at[7], *next = memory;
        for (int i = 0; i < 7; i++) at[i] = next, next += up(sizes[i], 64);
        Scratch s = {at[0], at[1], (float *)at[2], (float *)at[3], (float *)at[4], (float *)at[5], (float *)at[6]};
#if HAS_TILES
        if (t->half) configure_tiles();
#endif
#if defined(__SSE__)
        const unsigned mode = _mm_getcsr();
        _mm_setcsr(mode | 0x8040); /* numbers below 2^-126 count as zero: handled exactly, they take 100 times as long */
#endif
#pragma omp for schedule(dynamic)
        for (int64_t u = 0; u < units; u++) {
            if (!memory) {
                failed = 1;
                continue;
            }
            int64_t first = u % parts * part;
            Part p = {u / parts / t->heads, u / parts % t->heads, first, least(part, t->queries - first)};
            work(t, &s, p, key_block);
        }
#if HAS_TILES
        if (t->half) _tile_release();
#endif
#if defined(__SSE__)
        _mm_setcsr(mode);
#endif
        free(memory);
    }
    return failed;
}
