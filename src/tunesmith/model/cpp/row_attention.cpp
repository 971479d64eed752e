// Attention of the rows of a packed sequence, forth and back, in bf16: each row sees itself alone.
//
// A few small products for each row and head, some queries at a time, so that what is between two of them stays in a
// core's caches. Probabilities are computed again on the way back (Dao et al., 2022). The right operand of a product is
// first put in pairs, as the instruction reads it:
//
//     B (K, N)  ->  [K / 2][N][2]
//
// Scores, probabilities and sums are fp32; what is multiplied is rounded to bf16.

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "chance.h"
#include "numbers.h"

namespace {

constexpr int TALL = 6, BROAD = 4;  // rows and registers of a product at once
constexpr long BLOCK = 96;          // queries whose probabilities are kept until keys and values have read them

long even(long count) { return (count + 1) / 2 * 2; }
long whole(long count) { return (count + LANES - 1) / LANES * LANES; }

// Numbers that nobody has written yet.
template <class T>
class Buffer {
public:
    explicit Buffer(long count) : numbers(new T[count]) {}
    T* data() const { return numbers.get(); }
    T& operator[](long place) const { return numbers[place]; }

private:
    std::unique_ptr<T[]> numbers;
};

// One head of one row: tokens lie so many numbers apart.
struct Head {
    const Number* first;
    long apart;
    const Number* at(long token) const { return first + token * apart; }
};

// Left operand of a product: bf16, rows so many numbers apart.
using Left = Head;

// Rows [row, row + Rows) of C = A B over K in [begin, end), added to what stands there or not.
template <int Rows, int Registers>
void piece(const Left& a, long row, const Number* b, long width, long begin, long end, float* c, long apart,
           bool more) {
    __m512 sum[Rows][Registers];
    for (int r = 0; r < Rows; ++r)
        for (int i = 0; i < Registers; ++i)
            sum[r][i] = more ? _mm512_loadu_ps(c + r * apart + i * LANES) : _mm512_setzero_ps();
    for (long k = begin; k < end; k += 2) {
        __m512bh right[Registers];
#pragma GCC unroll 4
        for (int i = 0; i < Registers; ++i) right[i] = (__m512bh)_mm512_loadu_si512(b + k * width + i * 2 * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < Rows; ++r) {
            std::int32_t two;
            std::memcpy(&two, a.at(row + r) + k, sizeof two);
            const __m512bh left = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 4
            for (int i = 0; i < Registers; ++i) sum[r][i] = _mm512_dpbf16_ps(sum[r][i], left, right[i]);
        }
    }
    for (int r = 0; r < Rows; ++r)
        for (int i = 0; i < Registers; ++i) _mm512_storeu_ps(c + r * apart + i * LANES, sum[r][i]);
}

using Piece = void (*)(const Left&, long, const Number*, long, long, long, float*, long, bool);

template <int Registers, int... Less>
Piece piece_of(long rows, std::integer_sequence<int, Less...>) {
    static constexpr Piece table[] = {piece<Less + 1, Registers>...};
    return table[rows - 1];
}

template <int Registers>
Piece piece_of(long rows) {
    return piece_of<Registers>(rows, std::make_integer_sequence<int, TALL>{});
}

// C (rows, columns) = A B, of some rows of A and at most TALL; B has `width` columns, in pairs, of which `columns`
// count.
void product(const Left& a, long row, long rows, const Number* b, long width, long columns, long begin, long end,
             float* c, long apart, bool more = false) {
    long column = 0;
    for (; column + BROAD * LANES <= columns; column += BROAD * LANES)
        piece_of<BROAD>(rows)(a, row, b + 2 * column, width, begin, end, c + column, apart, more);
    for (; column + 2 * LANES <= columns; column += 2 * LANES)
        piece_of<2>(rows)(a, row, b + 2 * column, width, begin, end, c + column, apart, more);
    for (; column < columns; column += LANES)
        piece_of<1>(rows)(a, row, b + 2 * column, width, begin, end, c + column, apart, more);
}

// 16 lines of 16 words turned, in place.
inline void turn(__m512i line[LANES]) {
    __m512i two[LANES], four[LANES];
    for (int i = 0; i < LANES; i += 2) {
        two[i] = _mm512_unpacklo_epi32(line[i], line[i + 1]);
        two[i + 1] = _mm512_unpackhi_epi32(line[i], line[i + 1]);
    }
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < 2; ++j) {
            four[i + 2 * j] = _mm512_unpacklo_epi64(two[i + j], two[i + 2 + j]);
            four[i + 2 * j + 1] = _mm512_unpackhi_epi64(two[i + j], two[i + 2 + j]);
        }
    for (int j = 0; j < 4; ++j) {
        const __m512i first = _mm512_shuffle_i32x4(four[j], four[4 + j], 0x88),
                      second = _mm512_shuffle_i32x4(four[j], four[4 + j], 0xdd),
                      third = _mm512_shuffle_i32x4(four[8 + j], four[12 + j], 0x88),
                      fourth = _mm512_shuffle_i32x4(four[8 + j], four[12 + j], 0xdd);
        line[j] = _mm512_shuffle_i32x4(first, third, 0x88);
        line[8 + j] = _mm512_shuffle_i32x4(first, third, 0xdd);
        line[4 + j] = _mm512_shuffle_i32x4(second, fourth, 0x88);
        line[12 + j] = _mm512_shuffle_i32x4(second, fourth, 0xdd);
    }
}

// The transposed head (D, tokens) in pairs of D: [D / 2][tokens, rounded up][2], zeros behind the last token.
void across(const Head& head, long tokens, long width, const Buffer<Number>& into) {
    const long columns = whole(tokens);
    for (long token = 0; token < tokens; token += LANES)
        for (long pair = 0; pair < width / 2; pair += LANES) {
            const long pairs = std::min<long>(LANES, width / 2 - pair);
            __m512i line[LANES];
            for (long i = 0; i < LANES; ++i)
                line[i] = token + i < tokens
                              ? _mm512_maskz_loadu_epi32((1u << pairs) - 1, head.at(token + i) + 2 * pair)
                              : _mm512_setzero_si512();
            turn(line);
            for (long i = 0; i < pairs; ++i)
                _mm512_storeu_si512(into.data() + ((pair + i) * columns + token) * 2, line[i]);
        }
}

// The head (tokens, D) in pairs of tokens: [tokens / 2][D][2]; a token that lacks its other is paired with zeros.
void along(const Head& head, long tokens, long width, const Buffer<Number>& into) {
    for (long token = 0; token < tokens; token += 2)
        for (long i = 0; i < width; i += LANES) {
            const auto words = [&](long which) {
                return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(head.at(which) + i)));
            };
            __m512i both = words(token);
            if (token + 1 < tokens) both = _mm512_or_si512(both, _mm512_slli_epi32(words(token + 1), 16));
            _mm512_storeu_si512(into.data() + token * width + 2 * i, both);
        }
}

// Scores of one query become probabilities of the first `seen` keys, and zero beyond, up to a whole register.
void softmax(float* scores, long seen, long columns, float scale) {
    const __m512 factor = _mm512_set1_ps(scale);
    __m512 largest = _mm512_set1_ps(-std::numeric_limits<float>::infinity()), sum = _mm512_setzero_ps();
    for (long i = 0; i < columns; i += LANES) {
        const __mmask16 there = seen - i >= LANES ? 0xffff : seen > i ? (1u << (seen - i)) - 1 : 0;
        const __m512 score = _mm512_mask_mul_ps(_mm512_set1_ps(-std::numeric_limits<float>::infinity()), there, factor,
                                                _mm512_loadu_ps(scores + i));
        _mm512_storeu_ps(scores + i, score);
        largest = _mm512_max_ps(largest, score);
    }
    const __m512 most = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    for (long i = 0; i < columns; i += LANES) {
        const __m512 less = _mm512_sub_ps(_mm512_loadu_ps(scores + i), most);
        const __m512 weight = exponential(less);
        _mm512_storeu_ps(scores + i, weight);
        sum = _mm512_add_ps(sum, weight);
    }
    const __m512 share = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(sum));
    for (long i = 0; i < columns; i += LANES)
        _mm512_storeu_ps(scores + i, _mm512_mul_ps(share, _mm512_loadu_ps(scores + i)));
}

void round_to(const float* from, long count, Number* into) {
    for (long i = 0; i < count; i += LANES) store(into + i, _mm512_loadu_ps(from + i));
}

// Where heads of a tensor (tokens, heads, D) lie, in numbers.
struct Laid {
    long token, head;
};

}  // namespace

// What `attention_cpu.py` hands over, as it lies there.
struct Packed {
    const Number *query, *key, *value;
    Laid of_query, of_key, of_value;
    const std::int64_t* rows;          // (count, 2): first token, and the one behind the last
    long count, heads, groups, width;  // groups: heads of keys
    float scale, dropout;
    std::uint32_t seed;
    long causal;
};

namespace {

class Row {
public:
    Row(const Packed& all, long row, long group)
        : all(all),
          first(all.rows[2 * row]),
          tokens(all.rows[2 * row + 1] - first),
          group(group),
          shared(all.heads / all.groups) {}

    Head of(const Number* tensor, const Laid& laid, long head) const {
        return {tensor + first * laid.token + head * laid.head, laid.token};
    }
    long seen(long query) const { return all.causal ? query + 1 : tokens; }

    const Packed& all;
    const long first, tokens, group, shared;
};

// What the probabilities of a query are multiplied by: zero at random, the same each time that it is asked.
class Dropout {
public:
    Dropout(const Row& row, long head, long query)
        : drops(row.all.dropout > 0),
          first(mixed(row.all.seed ^ mixed(static_cast<std::uint32_t>((row.first + query) * row.all.heads + head)))),
          least(least_of(row.all.dropout)),
          factor(1.0f / (1.0f - row.all.dropout)) {}

    // Of 16 probabilities from that of `key` on.
    __m512 operator()(__m512 numbers, long key) const {
        return drops ? dropped(numbers, mixed(following(first + key)), least, factor) : numbers;
    }

private:
    const bool drops;
    const std::uint32_t first, least;
    const float factor;
};

// What a thread keeps from row to row, with room for the longest.
struct Room {
    Room(long tokens, long width)
        : keys_across((whole(tokens) + LANES) * width),
          values_across((whole(tokens) + LANES) * width),
          keys_along((whole(tokens) + LANES) * width),
          values_along((whole(tokens) + LANES) * width),
          queries_along((whole(tokens) + LANES) * width),
          gradients_along((whole(tokens) + LANES) * width),
          weights(BLOCK * whole(tokens)),
          by_score(BLOCK * whole(tokens)),
          weights_turned(whole(tokens) * BLOCK),
          by_score_turned(whole(tokens) * BLOCK),
          scores(TALL * whole(tokens)),
          by_weight(TALL * whole(tokens)),
          sums(TALL * width),
          by_key(tokens * width),
          by_value(tokens * width) {}

    Buffer<Number> keys_across, values_across, keys_along, values_along, queries_along, gradients_along;
    Buffer<Number> weights, by_score, weights_turned, by_score_turned;
    Buffer<float> scores, by_weight, sums, by_key, by_value;
};

// Output (tokens, heads, D), contiguous.
void forward(const Row& row, Room& room, Number* output) {
    const Packed& all = row.all;
    const long tokens = row.tokens, width = all.width, columns = whole(tokens);
    across(row.of(all.key, all.of_key, row.group), tokens, width, room.keys_across);
    along(row.of(all.value, all.of_value, row.group), tokens, width, room.values_along);
    for (long head = row.group * row.shared; head < (row.group + 1) * row.shared; ++head) {
        const Head query = row.of(all.query, all.of_query, head);
        for (long begin = 0; begin < tokens; begin += TALL) {
            const long rows = std::min<long>(TALL, tokens - begin), seen = row.seen(begin + rows - 1);
            product(query, begin, rows, room.keys_across.data(), columns, whole(seen), 0, width, room.scores.data(),
                    columns);
            for (long r = 0; r < rows; ++r) {
                float* weights = room.scores.data() + r * columns;
                softmax(weights, row.seen(begin + r), whole(seen), all.scale);
                const Dropout dropout(row, head, begin + r);
                for (long i = 0; i < whole(seen); i += LANES)
                    store(room.weights.data() + r * columns + i, dropout(_mm512_loadu_ps(weights + i), i));
            }
            product({room.weights.data(), columns}, 0, rows, room.values_along.data(), width, width, 0, even(seen),
                    room.sums.data(), width);
            for (long r = 0; r < rows; ++r)
                round_to(room.sums.data() + r * width, width,
                         output + ((row.first + begin + r) * all.heads + head) * width);
        }
    }
}

// Probabilities of a query, and from them and the gradients by them those by its scores, both of as many keys as the
// block has.
void by_scores(const Row& row, Room& room, long at, long query, long seen, long keys, const Dropout& dropout) {
    const long columns = whole(row.tokens);
    float *weights = room.scores.data() + at, *by_weight = room.by_weight.data() + at;
    softmax(weights, seen, whole(seen), row.all.scale);
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < seen; i += LANES) {
        _mm512_storeu_ps(by_weight + i, dropout(_mm512_loadu_ps(by_weight + i), i));
        sum = _mm512_fmadd_ps(_mm512_loadu_ps(weights + i), _mm512_loadu_ps(by_weight + i), sum);
    }
    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(sum)), scale = _mm512_set1_ps(row.all.scale);
    Number *rounded = room.weights.data() + query * columns, *by_score = room.by_score.data() + query * columns;
    for (long i = 0; i < seen; i += LANES) {
        const __m512 weight = _mm512_loadu_ps(weights + i), less = _mm512_sub_ps(_mm512_loadu_ps(by_weight + i), mean);
        store(rounded + i, dropout(weight, i));
        store(by_score + i, _mm512_mul_ps(_mm512_mul_ps(weight, scale), less));
    }
    for (auto* one : {rounded, by_score}) std::fill(one + whole(seen), one + whole(keys), 0);
}

// (queries, keys), rows `columns` apart, turned to (keys, queries), rows BLOCK apart; a query that lacks its other is
// paired with zeros.
void turned(const Buffer<Number>& from, long queries, long keys, long columns, const Buffer<Number>& into) {
    const auto words = [&](long query, long key) {
        if (query >= queries) return _mm512_setzero_si512();
        const Number* numbers = from.data() + query * columns + key;
        return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(numbers)));
    };
    for (long key = 0; key < keys; key += LANES)
        for (long query = 0; query < queries; query += PAIRS) {
            __m512i line[LANES];
            for (long i = 0; i < LANES; ++i)
                line[i] =
                    _mm512_or_si512(words(query + 2 * i, key), _mm512_slli_epi32(words(query + 2 * i + 1, key), 16));
            turn(line);
            for (long i = 0; i < LANES; ++i) _mm512_storeu_si512(into.data() + (key + i) * BLOCK + query, line[i]);
        }
}

// Gradients by queries (tokens, heads, D), keys and values (tokens, groups, D), contiguous, as is `gradient` by the
// output.
void backward(const Row& row, Room& room, const Number* gradient, Number* by_query, Number* by_key, Number* by_value) {
    const Packed& all = row.all;
    const long tokens = row.tokens, width = all.width, columns = whole(tokens);
    const Head key = row.of(all.key, all.of_key, row.group), value = row.of(all.value, all.of_value, row.group);
    across(key, tokens, width, room.keys_across);
    across(value, tokens, width, room.values_across);
    along(key, tokens, width, room.keys_along);
    for (auto* one : {&room.by_key, &room.by_value}) std::fill_n(one->data(), tokens * width, 0.0f);
    for (long head = row.group * row.shared; head < (row.group + 1) * row.shared; ++head) {
        const Head query = row.of(all.query, all.of_query, head),
                   above = row.of(gradient, {all.heads * width, width}, head);
        along(query, tokens, width, room.queries_along);
        along(above, tokens, width, room.gradients_along);
        for (long block = 0; block < tokens; block += BLOCK) {
            const long end = std::min(block + BLOCK, tokens), keys = row.seen(end - 1);
            for (long begin = block; begin < end; begin += TALL) {
                const long rows = std::min<long>(TALL, end - begin), seen = row.seen(begin + rows - 1);
                product(query, begin, rows, room.keys_across.data(), columns, whole(seen), 0, width, room.scores.data(),
                        columns);
                product(above, begin, rows, room.values_across.data(), columns, whole(seen), 0, width,
                        room.by_weight.data(), columns);
                for (long r = 0; r < rows; ++r)
                    by_scores(row, room, r * columns, begin + r - block, row.seen(begin + r), keys,
                              Dropout(row, head, begin + r));
                product({room.by_score.data(), columns}, begin - block, rows, room.keys_along.data(), width, width, 0,
                        even(seen), room.sums.data(), width);
                for (long r = 0; r < rows; ++r)
                    round_to(room.sums.data() + r * width, width,
                             by_query + ((row.first + begin + r) * all.heads + head) * width);
            }
            turned(room.weights, end - block, keys, columns, room.weights_turned);
            turned(room.by_score, end - block, keys, columns, room.by_score_turned);
            for (long begin = 0; begin < keys; begin += TALL) {
                const long rows = std::min<long>(TALL, keys - begin),
                           from = all.causal ? std::max(0L, begin - block) / 2 * 2 : 0;
                for (const auto& [left, right, sum] :
                     {std::tuple(&room.weights_turned, &room.gradients_along, &room.by_value),
                      std::tuple(&room.by_score_turned, &room.queries_along, &room.by_key)})
                    product({left->data(), BLOCK}, begin, rows, right->data() + block * width, width, width, from,
                            even(end - block), sum->data() + begin * width, width, true);
            }
        }
    }
    for (long token = 0; token < tokens; ++token) {
        const long at = ((row.first + token) * all.groups + row.group) * width;
        round_to(room.by_key.data() + token * width, width, by_key + at);
        round_to(room.by_value.data() + token * width, width, by_value + at);
    }
}

template <class Work>
long each(const Packed& all, long threads, Work work) {
    return told([&] {
        long longest = 0, squares = 0;
        for (long row = 0; row < all.count; ++row) {
            const long tokens = all.rows[2 * row + 1] - all.rows[2 * row];
            longest = std::max(longest, tokens);
            squares += tokens * tokens;
        }
        std::vector<Room> rooms;
        for (long thread = 0; thread < threads; ++thread) rooms.emplace_back(longest, all.width);
        // All heads of a row one after another, as they lie in memory, unless one row is more than a thread's share:
        // the longest come first.
        const long parts = longest * longest * threads <= squares ? 1 : all.groups;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (long one = 0; one < all.count * parts; ++one)
            for (long group = one % parts; group < all.groups; group += parts)
                work(Row(all, one / parts, group), rooms[omp_get_thread_num()]);
    });
}

}  // namespace

extern "C" long rows_forward(const Packed& all, Number* output, long threads) {
    return each(all, threads, [&](const Row& row, Room& room) { forward(row, room, output); });
}

extern "C" long rows_backward(const Packed& all, const Number* gradient, Number* by_query, Number* by_key,
                              Number* by_value, long threads) {
    return each(all, threads,
                [&](const Row& row, Room& room) { backward(row, room, gradient, by_query, by_key, by_value); });
}
