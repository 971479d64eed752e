// Attention of one new token of each row to the row's own slot of keys and values: bf16 numbers, fp32 scores and sums.
//
// Heads that share keys are computed together, up to 4 at a time, so that a key is read from memory once. Only
// positions that a token sees are looked at: those up to its own, of a sliding window the last ones. A row's result
// does not depend on the others, nor on how far the longest of them reaches.

#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "numbers.h"

namespace {

constexpr int HEADS = 4;      // at once
constexpr int REGISTERS = 4;  // of an output at once

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
                sum[head] =
                    _mm512_dpbf16_ps(sum[head], (__m512bh)_mm512_loadu_si512(query + head * slot.width + from), key);
        }
        for (int head = 0; head < Heads; ++head)
            scores[head * row + position] = scale * _mm512_reduce_add_ps(sum[head]);
    }
}

// Scores become e^(score - the largest), zero beyond the last position; returns their sum.
float weigh(float* scores, long positions, long row) {
    const float largest = *std::max_element(scores, scores + positions);
    std::fill(scores + positions, scores + row, -std::numeric_limits<float>::infinity());
    __m512 sum = _mm512_setzero_ps();
    for (long from = 0; from < row; from += LANES) {
        const __m512 less = _mm512_sub_ps(_mm512_loadu_ps(scores + from), _mm512_set1_ps(largest));
        const __m512 weight = exponential(less);
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
            for (int part = 0; part < Registers; ++part)
                sum[head][part] = _mm512_fmadd_ps(weight, value[part], sum[head][part]);
        }
    }
    for (int head = 0; head < Heads; ++head) {
        const __m512 share = _mm512_set1_ps(1.0f / totals[head]);
        for (int part = 0; part < Registers; ++part)
            store(output + head * slot.width + from + part * LANES, _mm512_mul_ps(sum[head][part], share));
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

// Numbers that scores take at most.
inline long room_for_scores(long positions) { return HEADS * ((positions + LANES - 1) / LANES * LANES); }

// All heads that share the slot's keys; `scores` is room that is kept from call to call.
inline void attend(const Number* query, const Slot& slot, long shared, float scale, Number* output,
                   std::vector<float>& scores) {
    for (long head = 0; head < shared; head += HEADS)
        heads_of(std::min<long>(HEADS, shared - head), std::make_integer_sequence<int, HEADS>{})(
            query + head * slot.width, slot, scale, output + head * slot.width, scores);
}

}  // namespace
