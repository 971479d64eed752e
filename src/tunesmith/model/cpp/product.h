// y = x W^T of bf16 numbers, summed in fp32, for the few rows that a step of decoding has.
//
// Such a product is as fast as memory gives the weights, as long as nothing else takes time. So the weights lie in the
// very order in which they are read: panels of 48 outputs, of each two neighbouring inputs of 16 outputs together,
//
//     W (N, K)  ->  [N / 48 panels][K / 2 pairs of inputs][3][16 outputs][2]
//
// where the last panel may have 16 or 32 outputs, filled up with zeros. A line of memory is then one register, and a
// pair of a row's inputs multiplies it in one instruction. Up to 8 rows by a panel are summed in registers at once,
// while lines further on are asked for. A row's sums are in one order however many rows there are: its result does not
// depend on the others, to the last bit.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "numbers.h"

namespace {

constexpr int OUTPUTS = 16;   // of a register
constexpr int ROWS = 8;       // at once
constexpr int PANEL = 3;      // registers of outputs at once
constexpr long AHEAD = 1024;  // bytes that are asked for before they are read

struct Shape {
    long rows, inputs, outputs, apart;  // of rows of x, the first numbers
    long panels() const { return (outputs + PANEL * OUTPUTS - 1) / (PANEL * OUTPUTS); }
};

// `Rows` rows by a panel of `Blocks` registers of outputs, which begins with the output `first`.
template <int Rows, int Blocks>
void sums(const Number* x, const Number* w, Number* y, const Shape& of, long first) {
    __m512 sum[Rows][Blocks];
    for (auto& row : sum)
        for (auto& one : row) one = _mm512_setzero_ps();
    const Number* line = w + first * of.inputs;
    for (long input = 0; input < of.inputs; input += 2) {
        __m512bh weight[Blocks];
#pragma GCC unroll 8
        for (int b = 0; b < Blocks; ++b, line += 2 * OUTPUTS) {
            weight[b] = (__m512bh)_mm512_loadu_si512(line);
            _mm_prefetch(reinterpret_cast<const char*>(line) + AHEAD, _MM_HINT_T0);
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            std::int32_t two;
            std::memcpy(&two, x + r * of.apart + input, sizeof two);
            const __m512bh input = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 8
            for (int b = 0; b < Blocks; ++b) sum[r][b] = _mm512_dpbf16_ps(sum[r][b], weight[b], input);
        }
    }
    for (int b = 0; b < Blocks; ++b) {
        const long left = of.outputs - first - b * OUTPUTS;
        const __mmask16 there = left < OUTPUTS ? (1u << left) - 1 : 0xffff;
        for (int r = 0; r < Rows; ++r)
            _mm256_mask_storeu_epi16(y + r * of.outputs + first + b * OUTPUTS, there,
                                     (__m256i)_mm512_cvtneps_pbh(sum[r][b]));
    }
}

using Sums = void (*)(const Number*, const Number*, Number*, const Shape&, long);

template <int Blocks, int... Less>
Sums sums_of(int rows, std::integer_sequence<int, Less...>) {
    static constexpr Sums table[] = {sums<Less + 1, Blocks>...};
    return table[rows - 1];
}

// All rows, in pieces of about one size.
template <int Blocks>
void outputs_from(const Number* x, const Number* w, Number* y, const Shape& of, long first) {
    const long pieces = (of.rows + ROWS - 1) / ROWS;
    for (long piece = 0; piece < pieces; ++piece) {
        const long begin = of.rows * piece / pieces, end = of.rows * (piece + 1) / pieces;
        sums_of<Blocks>(static_cast<int>(end - begin), std::make_integer_sequence<int, ROWS>{})(
            x + begin * of.apart, w, y + begin * of.outputs, of, first);
    }
}

// The outputs of one panel, of all rows.
inline void panel(const Number* x, const Number* w, Number* y, const Shape& of, long number) {
    const long first = number * PANEL * OUTPUTS;
    switch ((of.outputs - first + OUTPUTS - 1) / OUTPUTS) {
        case 1:
            outputs_from<1>(x, w, y, of, first);
            break;
        case 2:
            outputs_from<2>(x, w, y, of, first);
            break;
        default:
            outputs_from<PANEL>(x, w, y, of, first);
    }
}

}  // namespace
