// Softmax over a vocabulary, in the place of the logits: what a loss needs of them, and its gradient by them.
//
// A row of bf16 logits stays in a core's cache while it is read three times: for the largest, for the sum, and to be
// written over.

#include <algorithm>
#include <cmath>
#include <limits>

#include "numbers.h"

namespace {

constexpr int SUMS = 4;  // that are added to in turn, so that none waits for itself

// The first `left` of 16 numbers; in the places of the others a number that changes nothing.
inline __m512 first_of(const Number* numbers, long left, float others) {
    const __mmask16 there = (1u << left) - 1;
    const __m512i read = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, numbers));
    return _mm512_mask_mov_ps(_mm512_set1_ps(others), there, _mm512_castsi512_ps(_mm512_slli_epi32(read, 16)));
}

inline float largest(const Number* row, long words) {
    constexpr float none = -std::numeric_limits<float>::infinity();
    __m512 top[SUMS];
    for (auto& one : top) one = _mm512_set1_ps(none);
    long i = 0;
    for (; i + SUMS * LANES <= words; i += SUMS * LANES)
        for (int s = 0; s < SUMS; ++s) top[s] = _mm512_max_ps(top[s], widened(row + i + s * LANES));
    for (; i + LANES <= words; i += LANES) top[0] = _mm512_max_ps(top[0], widened(row + i));
    if (i < words) top[0] = _mm512_max_ps(top[0], first_of(row + i, words - i, none));
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(top[0], top[1]), _mm512_max_ps(top[2], top[3])));
}

// Of e^x, over a row, of what is below its largest logit.
inline float sum_of_powers(const Number* row, long words, float top) {
    const __m512 from = _mm512_set1_ps(top);
    __m512 sum[SUMS];
    for (auto& one : sum) one = _mm512_setzero_ps();
    long i = 0;
    for (; i + SUMS * LANES <= words; i += SUMS * LANES)
        for (int s = 0; s < SUMS; ++s)
            sum[s] = _mm512_add_ps(sum[s], exponential(_mm512_sub_ps(widened(row + i + s * LANES), from)));
    for (; i + LANES <= words; i += LANES)
        sum[0] = _mm512_add_ps(sum[0], exponential(_mm512_sub_ps(widened(row + i), from)));
    if (i < words) {
        const __m512 powers = exponential(_mm512_sub_ps(first_of(row + i, words - i, top), from));
        sum[1] = _mm512_mask_add_ps(sum[1], (1u << (words - i)) - 1, sum[1], powers);
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
}

inline void write_shares(Number* row, long words, float log_sum) {
    const __m512 from = _mm512_set1_ps(log_sum);
    long i = 0;
    for (; i + LANES <= words; i += LANES) store(row + i, exponential(_mm512_sub_ps(widened(row + i), from)));
    if (i < words) {
        const __m512 share = exponential(_mm512_sub_ps(first_of(row + i, words - i, log_sum), from));
        _mm256_mask_storeu_epi16(row + i, (1u << (words - i)) - 1, (__m256i)_mm512_cvtneps_pbh(share));
    }
}

}  // namespace

// Of each row: the logarithm of the sum of its words' weights, its largest logit, and instead of the logits the shares.
extern "C" long shares(Number* logits, float* log_sum, float* top, long rows, long words, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long r = 0; r < rows; ++r) {
        Number* row = logits + r * words;
        top[r] = largest(row, words);
        log_sum[r] = top[r] + std::log(sum_of_powers(row, words, top[r]));
        write_shares(row, words, log_sum[r]);
    }
    return 0;
}

// Each row times a number of its own.
extern "C" long weigh(Number* numbers, const float* factor, long rows, long words, long threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long r = 0; r < rows; ++r) {
        Number* row = numbers + r * words;
        const __m512 by = _mm512_set1_ps(factor[r]);
        long i = 0;
        for (; i + LANES <= words; i += LANES) store(row + i, _mm512_mul_ps(widened(row + i), by));
        if (i < words) {
            const __m512 weighed = _mm512_mul_ps(first_of(row + i, words - i, 0.0f), by);
            _mm256_mask_storeu_epi16(row + i, (1u << (words - i)) - 1, (__m256i)_mm512_cvtneps_pbh(weighed));
        }
    }
    return 0;
}
