// Dropout: numbers are left out at random, and the others made larger by as much (Srivastava et al., 2014).

#include <algorithm>

#include "chance.h"
#include "numbers.h"

namespace {

constexpr long PIECE = 4096;  // numbers of a piece of work

inline __m512 read(const Number* from, __mmask16 there) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from)), 16));
}
inline __m512 read(const float* from, __mmask16 there) { return _mm512_maskz_loadu_ps(there, from); }
inline void write(Number* to, __mmask16 there, __m512 x) {
    _mm256_mask_storeu_epi16(to, there, (__m256i)_mm512_cvtneps_pbh(x));
}
inline void write(float* to, __mmask16 there, __m512 x) { _mm512_mask_storeu_ps(to, there, x); }

template <class T>
void drop(const T* from, T* to, long count, float share, std::uint32_t seed, long threads) {
    const std::uint32_t least = least_of(share);
    const float factor = 1.0f / (1.0f - share);
    const __m512i own = _mm512_set1_epi32(static_cast<int>(mixed(seed)));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long begin = 0; begin < count; begin += PIECE)
        for (long i = begin; i < std::min(begin + PIECE, count); i += LANES) {
            const __mmask16 there = count - i >= LANES ? 0xffff : (1u << (count - i)) - 1;
            const __m512i chance = mixed(_mm512_xor_si512(mixed(following(static_cast<std::uint32_t>(i))), own));
            write(to + i, there, dropped(read(from + i, there), chance, least, factor));
        }
}

}  // namespace

// `bytes` of a number: 2 of bf16, 4 of fp32.
extern "C" long dropout(const void* from, void* to, long count, long bytes, float share, std::uint32_t seed,
                        long threads) {
    if (bytes == 2)
        drop(static_cast<const Number*>(from), static_cast<Number*>(to), count, share, seed, threads);
    else
        drop(static_cast<const float*>(from), static_cast<float*>(to), count, share, seed, threads);
    return 0;
}
