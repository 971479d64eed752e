// bf16 numbers in registers of fp32.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <new>

namespace {

constexpr int LANES = 16;     // fp32 numbers of a register
constexpr int PAIRS = 32;     // bf16 numbers of a register
constexpr float LEAST = -80;  // e^x is zero below: smaller numbers are multiplied slowly

using Number = std::uint16_t;  // bf16

inline __m512 widened(const Number* numbers) {
    const __m256i read = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(read), 16));
}

inline void store(Number* numbers, __m512 x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(numbers), (__m256i)_mm512_cvtneps_pbh(x));
}

// As a bf16 number is rounded.
inline __m512 rounded(__m512 x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)), 16));
}

// e^x for x <= 0: 2^n of the whole part, and a polynomial (Taylor's) of the rest, whose error is below 3e-7. What is no
// number stays none.
inline __m512 exponential(__m512 x) {
    const __mmask16 none = _mm512_cmp_ps_mask(x, _mm512_set1_ps(LEAST), _CMP_LT_OQ);
    const __m512 whole = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT);
    __m512 rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), x);
    rest = _mm512_fnmadd_ps(whole, _mm512_set1_ps(-2.12194440e-4f), rest);
    __m512 sum = _mm512_set1_ps(1.0f / 720);
    for (const float factor : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        sum = _mm512_fmadd_ps(sum, rest, _mm512_set1_ps(factor));
    return _mm512_mask_mov_ps(_mm512_scalef_ps(sum, whole), none, _mm512_setzero_ps());
}

// What Python is told: 0, or 1 where there is no memory. Nothing may be thrown where several threads are at work, so
// all that is needed is taken before.
template <class Work>
long told(Work work) {
    try {
        work();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

}  // namespace
