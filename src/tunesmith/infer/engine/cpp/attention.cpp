// Attention of one new token of each row to the row's own slot of keys and values: bf16 numbers, fp32 scores and sums.
//
// Heads that share keys are computed together, up to 4 at a time, so that a key is read from memory once. Only positions
// that a token sees are looked at: those up to its own, of a sliding window the last ones. A row's result does not depend
// on the others, nor on how far the longest of them reaches.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

namespace {

constexpr int LANES = 16;      // fp32 numbers of a register
constexpr int PAIRS = 32;      // bf16 numbers of a register
constexpr int HEADS = 4;       // at once
constexpr int REGISTERS = 4;   // of an output at once

using Number = std::uint16_t;  // bf16

__m512 widened(const Number* numbers) {
    const __m256i read = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(read), 16));
}

// e^x for x <= 0: 2^n of the whole part, and a polynomial (Taylor's) of the rest, whose error is below 3e-7.
__m512 exponential(__m512 x) {
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 sum = _mm512_set1_ps(1.0f / 720);
    for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
    return _mm512_scalef_ps(sum, whole);
}

struct Slot {
    const Number *keys, *values;  // of one group of heads, from the first position that is seen on
    long positions, width;
};

// Scores of `Heads` heads with every position.
template <int Heads>
void score(const Number* query, const Slot& slot, float scale, float* scores, long row) {
    for (long position = 0; position < slot.positions; ++position) {
        __m512 sum[Heads];
        for (auto& one : sum) one = _mm512_setzero_ps();
        for (long from = 0; from < slot.width; from += PAIRS) {
            const __m512bh key = (__m512bh)_mm512_loadu_si512(slot.keys + position * slot.width + from);
            for (int head = 0; head < Heads; ++head)
                sum[head] = _mm512_dpbf16_ps(sum[head], (__m512bh)_mm512_loadu_si512(query + head * slot.width + from), key);
        }
        for (int head = 0; head < Heads; ++head) scores[head * row + position] = scale * _mm512_reduce_add_ps(sum[head]);
    }
}

// Scores become e^(score - the largest), as good as zero beyond the last position; returns their sum. What is no number
// stays none: of such operands the instruction returns the second.
float weigh(float* scores, long positions, long row) {
    const float largest = *std::max_element(scores, scores + positions);
    std::fill(scores + positions, scores + row, -std::numeric_limits<float>::infinity());
    __m512 sum = _mm512_setzero_ps();
    for (long from = 0; from < row; from += LANES) {
        const __m512 less = _mm512_sub_ps(_mm512_loadu_ps(scores + from), _mm512_set1_ps(largest));
        const __m512 weight = exponential(_mm512_max_ps(_mm512_set1_ps(-100.0f), less));
        _mm512_storeu_ps(scores + from, weight);
        sum = _mm512_add_ps(sum, weight);
    }
    return _mm512_reduce_add_ps(sum);
}

// Sums of values, of `Heads` heads, over `Registers` registers of their width.
template <int Heads, int Registers>
void sum_up(const Slot& slot, const float* weights, long row, const float* totals, long from, Number* output) {
    __m512 sum[Heads][Registers];
    for (auto& head : sum)
        for (auto& one : head) one = _mm512_setzero_ps();
    for (long position = 0; position < slot.positions; ++position) {
        __m512 value[Registers];
        for (int part = 0; part < Registers; ++part)
            value[part] = widened(slot.values + position * slot.width + from + part * LANES);
        for (int head = 0; head < Heads; ++head) {
            const __m512 weight = _mm512_set1_ps(weights[head * row + position]);
            for (int part = 0; part < Registers; ++part) sum[head][part] = _mm512_fmadd_ps(weight, value[part], sum[head][part]);
        }
    }
    for (int head = 0; head < Heads; ++head) {
        const __m512 share = _mm512_set1_ps(1.0f / totals[head]);
        for (int part = 0; part < Registers; ++part)
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(output + head * slot.width + from + part * LANES),
                                (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(sum[head][part], share)));
    }
}

template <int Heads>
void heads(const Number* query, const Slot& slot, float scale, Number* output, std::vector<float>& scores) {
    const long row = (slot.positions + LANES - 1) / LANES * LANES;
    scores.resize(Heads * row);
    score<Heads>(query, slot, scale, scores.data(), row);
    float totals[Heads];
    for (int head = 0; head < Heads; ++head) totals[head] = weigh(scores.data() + head * row, slot.positions, row);
    long from = 0;
    for (; from + REGISTERS * LANES <= slot.width; from += REGISTERS * LANES)
        sum_up<Heads, REGISTERS>(slot, scores.data(), row, totals, from, output);
    for (; from < slot.width; from += LANES) sum_up<Heads, 1>(slot, scores.data(), row, totals, from, output);
}

using Heads = void (*)(const Number*, const Slot&, float, Number*, std::vector<float>&);

template <int... Less>
Heads heads_of(long count, std::integer_sequence<int, Less...>) {
    static constexpr Heads table[] = {heads<Less + 1>...};
    return table[count - 1];
}

}  // namespace

// query and output (rows, groups, shared, width); keys and values (rows, groups, positions, width), of which the last two
// axes lie together; places: the position of each row's token, so many numbers apart. Width is a multiple of 32.
extern "C" void attention(const Number* query, const Number* keys, const Number* values, const std::int64_t* places,
                          Number* output, long rows, long groups, long shared, long width, long positions, long key_row,
                          long key_group, long value_row, long value_group, long places_apart, long window, float scale,
                          long threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> scores;
#pragma omp for schedule(static)
        for (long one = 0; one < rows * groups; ++one) {
            const long row = one / groups, group = one % groups;
            const long place = std::clamp(places[row * places_apart], 0L, positions - 1);
            const long first = std::max(0L, place - window + 1);
            const Slot slot{keys + row * key_row + group * key_group + first * width,
                            values + row * value_row + group * value_group + first * width, place + 1 - first, width};
            for (long head = 0; head < shared; head += HEADS) {
                const long begin = (one * shared + head) * width;
                heads_of(std::min<long>(HEADS, shared - head), std::make_integer_sequence<int, HEADS>{})(
                    query + begin, slot, scale, output + begin, scores);
            }
        }
    }
}
