// y = x W^T of bf16 numbers, summed in fp32, for the few rows that a step of decoding has.
//
// Such a product is as fast as memory gives the weights, as long as nothing else takes time. So the weights lie in the
// order in which they are read: 16 outputs together, of each two neighbouring inputs,
//
//     W (N, K)  ->  [N / 16 outputs][K / 2 pairs of inputs][16][2]
//
// filled up with zeros to 16 outputs. A line of memory is then one register, and a pair of a row's inputs multiplies it
// in one instruction. Up to 8 rows by 48 outputs are summed in registers at once, while lines further on are asked for.
// A row's sums are in one order however many rows there are: its result does not depend on the others, to the last bit.

#include <immintrin.h>

#include <cstdint>
#include <cstring>
#include <utility>

namespace {

constexpr int OUTPUTS = 16;    // of a register
constexpr int ROWS = 8;        // at once
constexpr int REGISTERS = 3;   // of outputs at once
constexpr long AHEAD = 1024;   // bytes that are asked for before they are read

using Number = std::uint16_t;  // bf16
struct Shape { long rows, inputs, outputs; };

// `Rows` rows by `Blocks` registers of outputs, the first of which is `first`.
template <int Rows, int Blocks>
void sums(const Number* x, const Number* w, Number* y, const Shape& of, long first) {
    __m512 sum[Rows][Blocks];
    for (auto& row : sum)
        for (auto& one : row) one = _mm512_setzero_ps();
    const long pairs = of.inputs / 2, block = pairs * 2 * OUTPUTS;
    const Number* begin = w + first / OUTPUTS * block;
    for (long pair = 0; pair < pairs; ++pair) {
        __m512bh weight[Blocks];
#pragma GCC unroll 8
        for (int b = 0; b < Blocks; ++b) {
            const Number* line = begin + b * block + pair * 2 * OUTPUTS;
            weight[b] = (__m512bh)_mm512_loadu_si512(line);
            _mm_prefetch(reinterpret_cast<const char*>(line) + AHEAD, _MM_HINT_T0);
        }
#pragma GCC unroll 8
        for (int r = 0; r < Rows; ++r) {
            std::int32_t two;
            std::memcpy(&two, x + r * of.inputs + 2 * pair, sizeof two);
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
            x + begin * of.inputs, w, y + begin * of.outputs, of, first);
    }
}

}  // namespace

// x (rows, inputs), w as above, y (rows, outputs); inputs are an even number.
extern "C" void product(const Number* x, const Number* w, Number* y, long rows, long inputs, long outputs, long threads) {
    const Shape of{rows, inputs, outputs};
    const long blocks = (outputs + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long thread = 0; thread < threads; ++thread) {
        long block = blocks * thread / threads;
        const long end = blocks * (thread + 1) / threads;
        for (; block + REGISTERS <= end; block += REGISTERS) outputs_from<REGISTERS>(x, w, y, of, block * OUTPUTS);
        for (; block < end; ++block) outputs_from<1>(x, w, y, of, block * OUTPUTS);
    }
}
