// Chance that is the same again for the same numbers: what dropout leaves out on the way forth, and again on the way
// back.

#pragma once

#include <immintrin.h>

#include <cstdint>

namespace {

// Numbers that say nothing of each other of numbers that follow each other (Wellons' lowbias32).
inline std::uint32_t mixed(std::uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352d;
    x = (x ^ x >> 15) * 0x846ca68b;
    return x ^ x >> 16;
}

inline __m512i mixed(__m512i x) {
    x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 16)), _mm512_set1_epi32(0x7feb352d));
    x = _mm512_mullo_epi32(_mm512_xor_si512(x, _mm512_srli_epi32(x, 15)),
                           _mm512_set1_epi32(static_cast<int>(0x846ca68b)));
    return _mm512_xor_si512(x, _mm512_srli_epi32(x, 16));
}

// 16 numbers that follow each other.
inline __m512i following(std::uint32_t first) {
    const __m512i each = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_epi32(each, _mm512_set1_epi32(static_cast<int>(first)));
}

// Of all numbers of 32 bits, this share is smaller.
inline std::uint32_t least_of(float share) { return static_cast<std::uint32_t>(share * 4294967296.0); }

// Numbers whose chance is large enough, times a factor; zero for the others.
inline __m512 dropped(__m512 numbers, __m512i chance, std::uint32_t least, float factor) {
    const __mmask16 kept = _mm512_cmpge_epu32_mask(chance, _mm512_set1_epi32(static_cast<int>(least)));
    return _mm512_maskz_mul_ps(kept, numbers, _mm512_set1_ps(factor));
}

}  // namespace
