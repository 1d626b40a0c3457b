// Cross-entropy over a catalogue: logits, their exponentials and both products with these, while they are in the cache.
//
// P positions at a time, and for these BLOCK items at a time. A product keeps a tile of sums in registers. Its factors
// are made of units of four bytes: a float, or two bfloat16 whose products are added up at once.

#include "arithmetic.hpp"

#include <cmath>
#include <vector>

#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

namespace {

#ifdef __AVX512F__
constexpr int LANES = 16, VECTORS = 4;
#else
constexpr int LANES = 8, VECTORS = 2;
#endif
constexpr int64_t ROWS = 6, COLUMNS = VECTORS * LANES; // of a tile
constexpr int64_t BLOCK = 192;                         // items
constexpr float ROOM = 16;                             // by which a logit may exceed the shift of its exponential
constexpr float LEFT_OUT = -1e30f;                     // logit of what is no candidate
static_assert(BLOCK % COLUMNS == 0);
static_assert(BLOCK % ROWS == 0 && ROWS % 2 == 0 && 64 % COLUMNS == 0);

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

struct __attribute__((may_alias)) Pair { uint32_t bits; };
template <class T> struct UnitOf;
template <> struct UnitOf<float> { using type = float; };
template <> struct UnitOf<bfloat16> { using type = Pair; };
template <class T> using Unit = typename UnitOf<T>::type;
template <class T> constexpr int64_t PER_UNIT = sizeof(Unit<T>) / sizeof(T);

inline Vector factor(const float *b) { return *(const Vector *)b; }
inline Bits factor(const Pair *b) { return *(const Bits *)b; }
inline Vector plus_product(Vector sum, float a, Vector b) { return sum + a * b; }
inline Vector plus_product(Vector sum, Pair a, Bits b) {
#ifdef __AVX512BF16__
    return (Vector)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(int(a.bits)), (__m512bh)b);
#else
    const float low = std::bit_cast<float>(a.bits << 16), high = std::bit_cast<float>(a.bits & 0xffff0000u);
    return sum + low * (Vector)(b << 16) + high * (Vector)(b & 0xffff0000u);
#endif
}

// sums[ROWS, COLUMNS] (+)= a b, over `depth` units.
template <bool FRESH, class U>
inline void tile(int64_t depth, const U *a, int64_t row, int64_t step, const U *b, float *sums, int64_t width) {
    Vector s[ROWS][VECTORS];
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) s[r][v] = FRESH ? Vector{} : factor(sums + r * width + v * LANES);
    for (int64_t k = 0; k < depth; ++k, a += step, b += COLUMNS) {
        decltype(factor(b)) f[VECTORS];
        for (int v = 0; v < VECTORS; ++v) f[v] = factor(b + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < ROWS; ++r)
            for (int v = 0; v < VECTORS; ++v) s[r][v] = plus_product(s[r][v], a[r * row], f[v]);
    }
    for (int r = 0; r < ROWS; ++r)
        for (int v = 0; v < VECTORS; ++v) *(Vector *)(sums + r * width + v * LANES) = s[r][v];
}

// sums[rows, width] (+)= a b: a's unit (r, k) is at r * row + k * step, and b is as `pack` lays it out.
template <bool FRESH, class U>
void product(int64_t rows, int64_t width, int64_t depth, const U *a, int64_t row, int64_t step, const U *b, float *sums) {
    for (int64_t c = 0; c < width; c += COLUMNS)
        for (int64_t r = 0; r < rows; r += ROWS)
            tile<FRESH>(depth, a + r * row, row, step, b + c * depth, sums + r * width + c, width);
}

// A right factor [depth, width] for `product`: panels of COLUMNS, of which each is read from front to back.
template <class T, class Element> void pack(int64_t depth, int64_t width, T *to, Element element) {
    constexpr int64_t N = PER_UNIT<T>;
    for (int64_t c = 0; c < width; c += COLUMNS)
        for (int64_t k = 0; k < depth; k += N)
            for (int64_t j = c; j < c + COLUMNS; ++j)
                for (int64_t i = 0; i < N; ++i) store(*to++, element(k + i, j));
}

template <class T> float rounded(float x) {
    T y;
    store(y, x);
    return load(y);
}

// The exponentials of a block [P, BLOCK], laid out for the product with the items and, as `held`, for that with the
// queries. Floats do for both as they are; bfloat16 are paired with those of 96 items later and of the next position.
inline void lay_out(int64_t, const float *, float *, float *) {}
inline void lay_out(int64_t positions, const float *block, Pair *along, Pair *held) {
    constexpr int64_t HALF = BLOCK / 2;
    const auto bits = [](float x) { return std::bit_cast<uint32_t>(x); };
    for (int64_t p = 0; p < positions; p += 2, block += 2 * BLOCK, along += BLOCK, held += BLOCK)
        for (int64_t n = 0; n < HALF; ++n) {
            const uint32_t a = bits(block[n]), b = bits(block[n + HALF]);
            const uint32_t c = bits(block[n + BLOCK]), d = bits(block[n + BLOCK + HALF]);
            along[n] = {a >> 16 | b};
            along[n + HALF] = {c >> 16 | d};
            held[n] = {a >> 16 | c};
            held[n + HALF] = {b >> 16 | d};
        }
}

// sums[n] += the exponentials of item n times the positions' scales.
inline void add_scaled(int64_t positions, const float *held, const float *scale, float *sums) {
    for (int64_t p = 0; p < positions; ++p, held += BLOCK)
        for (int64_t n = 0; n < BLOCK; ++n) sums[n] += scale[p] * held[n];
}
inline void add_scaled(int64_t positions, const Pair *held, const float *scale, float *sums) {
    for (int64_t p = 0; p < positions; p += 2, held += BLOCK)
        for (int64_t n = 0; n < BLOCK; ++n)
            sums[n] += scale[p] * std::bit_cast<float>(held[n].bits << 16) +
                       scale[p + 1] * std::bit_cast<float>(held[n].bits & 0xffff0000u);
}

// For the positions' queries q and masses m, and the catalogue's rows e and biases: with the probabilities
// w = softmax(e q + bias), grad_query = m Σ w e, normaliser = log of the softmax' denominator, sums += Σ m w q over the
// positions, and bias_sums += Σ m w.
//
// A position leaves out what its lane had for the `first` time [lanes, items] at its own time or before; without `first`,
// nothing.
//
// `across` and `along` have room for the padded catalogue each, `held` for `chunk` (a multiple of ROWS) times its items.
// `sums` [items padded to blocks, width padded to 64] and `bias_sums` start at zero.
template <class T>
void softmax(int64_t positions, int64_t items, int64_t width, int64_t chunk, const float *queries, const float *embedding,
             const float *bias, const float *mass, const int64_t *lane, const int32_t *time, const int32_t *first, T *across,
             T *along, T *held, float *grad_query, float *normaliser, float *sums, float *bias_sums) {
    using U = Unit<T>;
    constexpr int64_t N = PER_UNIT<T>, HALF = BLOCK / N;
    const int64_t blocks = (items + BLOCK - 1) / BLOCK, padded = (width + 63) / 64 * 64;
    for (int64_t block = 0; block < blocks; ++block) {
        const auto element = [&](int64_t item, int64_t column) {
            item += block * BLOCK;
            return item < items && column < width ? embedding[item * width + column] : 0.0f;
        };
        pack(padded, BLOCK, across + block * BLOCK * padded, [&](int64_t k, int64_t n) { return element(n, k); });
        pack(BLOCK, padded, along + block * BLOCK * padded,
             [&](int64_t k, int64_t c) { return element(k / N + k % N * HALF, c); });
    }
    std::vector<float> biases(blocks * BLOCK, LEFT_OUT), shift(chunk), total(chunk), scale(chunk);
    std::vector<float> expected(chunk * padded), scratch(N > 1 ? chunk * BLOCK : 0);
    std::vector<T> asked(chunk * padded), scaled(chunk * padded);
    std::vector<U> paired(N > 1 ? chunk * HALF : 0);
    std::copy(bias, bias + items, biases.begin());
    for (int64_t begin = 0; begin < positions; begin += chunk) {
        const int64_t here = std::min(chunk, positions - begin), rows = (here + ROWS - 1) / ROWS * ROWS;
        const auto query = [&](int64_t p, int64_t column) {
            return p < here && column < width ? queries[(begin + p) * width + column] : 0.0f;
        };
        for (int64_t p = 0; p < rows; ++p)
            for (int64_t c = 0; c < padded; ++c) store(asked[p * padded + c], query(p, c));
        std::fill(expected.begin(), expected.end(), 0.0f);
        std::fill(total.begin(), total.end(), 0.0f);
        for (int64_t block = 0; block < blocks; ++block) {
            U *const kept = (U *)held + block * BLOCK * (rows / N);
            float *const x = N > 1 ? scratch.data() : (float *)kept;
            product<true>(rows, BLOCK, padded / N, (const U *)asked.data(), padded / N, 1,
                          (const U *)across + block * BLOCK * (padded / N), x);
            for (int64_t p = 0; p < rows; ++p) {
                float *const row = x + p * BLOCK;
                const float *const b = biases.data() + block * BLOCK;
                if (first && p < here) {
                    const int32_t *const had = first + lane[begin + p] * items + block * BLOCK, now = time[begin + p];
                    for (int64_t n = 0; n < std::min(BLOCK, items - block * BLOCK); ++n)
                        row[n] = had[n] <= now ? LEFT_OUT : row[n];
                }
                float largest = -3e38f, sum = 0;
                for (int64_t n = 0; n < BLOCK; ++n) {
                    row[n] += b[n];
                    largest = std::max(largest, row[n]);
                }
                if (block == 0) shift[p] = largest;
                if (largest > shift[p] + ROOM) { // as if it had been known from the beginning
                    const float less = exponential(shift[p] - largest);
                    for (int64_t c = 0; c < padded; ++c) expected[p * padded + c] *= less;
                    for (int64_t done = 0; done < block; ++done)
                        for (int64_t n = 0; n < BLOCK; ++n) {
                            T &weight = held[((done * (rows / N) + p / N) * BLOCK + n) * N + p % N];
                            store(weight, load(weight) * less);
                        }
                    total[p] *= less;
                    shift[p] = largest;
                }
                for (int64_t n = 0; n < BLOCK; ++n) {
                    row[n] = rounded<T>(exponential(row[n] - shift[p]));
                    sum += row[n];
                }
                total[p] += sum;
            }
            U *const weights = N > 1 ? paired.data() : kept;
            lay_out(rows, x, weights, kept);
            product<false>(rows, padded, HALF, weights, HALF, 1, (const U *)along + block * HALF * padded,
                           expected.data());
        }
        for (int64_t p = 0; p < rows; ++p) scale[p] = p < here ? mass[begin + p] / total[p] : 0.0f;
        for (int64_t p = 0; p < here; ++p) {
            normaliser[begin + p] = shift[p] + std::log(total[p]);
            for (int64_t c = 0; c < width; ++c)
                grad_query[(begin + p) * width + c] = expected[p * padded + c] * scale[p];
        }
        pack(rows, padded, scaled.data(), [&](int64_t p, int64_t c) { return query(p, c) * scale[p]; });
        for (int64_t block = 0; block < blocks; ++block) {
            const U *const kept = (const U *)held + block * BLOCK * (rows / N);
            product<false>(BLOCK, padded, rows / N, kept, 1, BLOCK, (const U *)scaled.data(),
                           sums + block * BLOCK * padded);
            add_scaled(rows, kept, scale.data(), bias_sums + block * BLOCK);
        }
    }
}

} // namespace

#define FOR_TYPE(NAME, T)                                                                                              \
    void softmax_##NAME(int64_t positions, int64_t items, int64_t width, int64_t chunk, const float *queries,          \
                        const float *embedding, const float *bias, const float *mass, const int64_t *lane,             \
                        const int32_t *time, const int32_t *first, T *across, T *along, T *held, float *grad_query,    \
                        float *normaliser, float *sums, float *bias_sums) {                                            \
        softmax(positions, items, width, chunk, queries, embedding, bias, mass, lane, time, first, across, along, held,\
                grad_query, normaliser, sums, bias_sums);                                                              \
    }

extern "C" {
FOR_TYPE(bfloat16, bfloat16)
FOR_TYPE(float32, float)
}
