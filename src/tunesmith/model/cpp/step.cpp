// A step of decoding: one token of each row through all layers of a model that is built like Llama (Touvron et al.,
// 2023), and the norm behind them, in one call.
//
//     h += out(attention(turned(in(norm(h)))));   h += down(silu(gate(norm(h))) * up(norm(h)))
//
// The layers are 30 times a few products that take 20 to 100 us each: what stands between two of them counts, so all
// threads stay here, and meet behind each part. What a part has to do they take piece by piece: one that is late, since
// its core did something else, gets less. What one layer of the model hands to the next is rounded to bf16, as there;
// within one, numbers stay in fp32. A row's numbers do not depend on the other rows.

#include <omp.h>

#include <atomic>
#include <cmath>

#include "product.h"
#include "slot_attention.h"

namespace {

constexpr int COLUMNS = 4;  // of an adapter, summed in one piece

// The structures lie as in `infer/engine/step.py`. One of the linear layers that read the same input; what it lacks is
// null.
struct Part {
    const Number *bias, *down, *up;  // (outputs), (places, rank, inputs), (places, rank, outputs)
    long outputs;
};

struct Linear {
    const Number* weight;  // of all parts, in panels
    long inputs, outputs, parts;
    Part part[3];
};

struct Layer {
    Linear read, out, grow, shrink;  // queries, keys, values; the attention's output; gate and up; down
    const Number *before, *between;  // weights of the norms before attention, and before what follows
    const Number *queries, *keys;    // of the norms of each head, or null
    long window;
};

struct Model {
    const Layer* layers;
    const Number* after;                                                // weight of the last norm
    long count, width, heads, groups, head_width, inner, places, rank;  // places and rank of adapters
    float epsilon, scale;
};

struct Rows {
    Number* hidden;                 // (rows, width): embeddings, which become what the last norm returns
    const Number *cosines, *sines;  // (rows, head_width)
    const std::int64_t *places,
        *own;  // (rows): the token's position, and the place of its adapter, or -1; own may be null
    Number *const *keys, *const *values;  // of each layer (slots, groups, positions, head_width)
    long count, positions;
};

// x^2, summed.
float squares(const Number* x, long width) {
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < width; i += LANES) {
        const __m512 some = widened(x + i);
        sum = _mm512_fmadd_ps(some, some, sum);
    }
    return _mm512_reduce_add_ps(sum);
}

// Root mean square normalisation (Zhang and Sennrich, 2019). y may be x.
void normalise(const Number* x, const Number* weight, float epsilon, long width, Number* y) {
    const __m512 factor = _mm512_set1_ps(1.0f / std::sqrt(squares(x, width) / width + epsilon));
    for (long i = 0; i < width; i += LANES)
        store(y + i, _mm512_mul_ps(widened(weight + i), rounded(_mm512_mul_ps(widened(x + i), factor))));
}

void add(Number* x, const Number* more, long width) {
    for (long i = 0; i < width; i += LANES) store(x + i, _mm512_add_ps(widened(x + i), widened(more + i)));
}

// Rotary positions (Su et al., 2021): the first half of a head with the second.
void turn(Number* head, const Number* cosines, const Number* sines, long width) {
    const long half = width / 2;
    for (long i = 0; i < half; i += LANES) {
        const __m512 a = widened(head + i), b = widened(head + half + i);
        store(head + i, _mm512_fnmadd_ps(b, widened(sines + i), _mm512_mul_ps(a, widened(cosines + i))));
        const __m512 turned = _mm512_mul_ps(b, widened(cosines + half + i));
        store(head + half + i, _mm512_fmadd_ps(a, widened(sines + half + i), turned));
    }
}

// silu(gate) * up, where the gate stands.
void gated(Number* gate, const Number* up, long width) {
    for (long i = 0; i < width; i += LANES) {
        const __m512 x = widened(gate + i), below = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(x));
        const __m512 e = exponential(below);
        const __mmask16 negative = _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ);
        const __m512 share =
            _mm512_mask_mov_ps(_mm512_set1_ps(1.0f), negative, e);  // of 1 + e, that x is multiplied by
        const __m512 silu = _mm512_div_ps(_mm512_mul_ps(x, share), _mm512_add_ps(_mm512_set1_ps(1.0f), e));
        store(gate + i, _mm512_mul_ps(silu, widened(up + i)));
    }
}

float dot(const Number* x, const Number* y, long width) {
    __m512 sum = _mm512_setzero_ps();
    for (long i = 0; i < width; i += PAIRS) {
        const __mmask32 there = width - i < PAIRS ? (1u << (width - i)) - 1 : 0xffffffffu;
        sum = _mm512_dpbf16_ps(sum, (__m512bh)_mm512_maskz_loadu_epi16(there, x + i),
                               (__m512bh)_mm512_maskz_loadu_epi16(there, y + i));
    }
    return _mm512_reduce_add_ps(sum);
}

// What all threads share; one `Thread` each goes through it.
struct Shared {
    Shared(const Model& model, const Rows& rows, long threads)
        : model(model),
          rows(rows),
          normed(rows.count * model.width),
          sum(rows.count * model.width),
          heads(rows.count * (model.heads + 2 * model.groups) * model.head_width),
          attended(rows.count * model.heads * model.head_width),
          inner(rows.count * 2 * model.inner),
          low(rows.count * 3 * model.rank),
          scores(threads),
          taken(PIECES * model.count + 1) {
        for (auto& one : scores) one.reserve(room_for_scores(rows.positions));
    }

    static constexpr int PIECES = 12;  // parts of a layer, at most
    const Model& model;
    const Rows& rows;
    std::vector<Number> normed, sum, heads, attended, inner;
    std::vector<float> low;                  // (rows, parts, rank): what adapters make of a product's input
    std::vector<std::vector<float>> scores;  // of each thread
    std::vector<std::atomic<long>> taken;
};

class Thread {
public:
    explicit Thread(Shared& all)
        : all(all), model(all.model), rows(all.rows), scores(all.scores[omp_get_thread_num()]) {}

    void step() {
        for (long number = 0; number < model.count; ++number) {
            const Layer& layer = model.layers[number];
            norm(layer.before, number > 0, false);
            multiply(layer.read, all.normed.data(), model.width, all.heads.data());
            attention(layer, rows.keys[number], rows.values[number]);
            multiply(layer.out, all.attended.data(), layer.out.inputs, all.sum.data());
            norm(layer.between, true, false);
            multiply(layer.grow, all.normed.data(), model.width, all.inner.data());
            each(rows.count, [&](long row) {
                Number* gate = all.inner.data() + row * 2 * model.inner;
                gated(gate, gate + model.inner, model.inner);
            });
            multiply(layer.shrink, all.inner.data(), 2 * model.inner, all.sum.data());
        }
        norm(model.after, true, true);
    }

private:
    // Take what is left of so many pieces; all are done when it returns.
    template <class Work>
    void each(long count, Work work) {
        std::atomic<long>& taken = all.taken[part++];
        for (long piece; (piece = taken.fetch_add(1, std::memory_order_relaxed)) < count;) work(piece);
#pragma omp barrier
    }

    // What the last product returned is added; the sum, normalised, is read by the next one.
    void norm(const Number* weight, bool more, bool last) {
        each(rows.count, [&](long row) {
            Number* hidden = rows.hidden + row * model.width;
            if (more) add(hidden, all.sum.data() + row * model.width, model.width);
            normalise(hidden, weight, model.epsilon, model.width,
                      last ? hidden : all.normed.data() + row * model.width);
        });
    }

    // x has rows that begin so many numbers apart.
    void multiply(const Linear& linear, const Number* x, long apart, Number* y) {
        const Shape of{rows.count, linear.inputs, linear.outputs, apart};
        const long pieces = (model.rank + COLUMNS - 1) / COLUMNS, panels = of.panels();
        const bool adapted = rows.own != nullptr, more = adapted || biased(linear);
        each(panels + (adapted ? rows.count * linear.parts * pieces : 0), [&](long piece) {
            if (piece < panels) return panel(x, linear.weight, y, of, piece);
            piece -= panels;
            const long part = piece / pieces % linear.parts, row = piece / pieces / linear.parts;
            narrow(linear, part, x + row * apart, row, piece % pieces * COLUMNS);
        });
        if (!more) return;
        each(rows.count * linear.parts,
             [&](long piece) { widen(linear, piece % linear.parts, y, piece / linear.parts); });
    }

    static bool biased(const Linear& linear) {
        return std::any_of(linear.part, linear.part + linear.parts,
                           [](const Part& part) { return part.bias != nullptr; });
    }

    float* low_of(long row, long part) { return all.low.data() + (row * 3 + part) * model.rank; }

    // x A^T of a row's adapter (Hu et al., 2021), some columns.
    void narrow(const Linear& linear, long number, const Number* x, long row, long first) {
        const Part& part = linear.part[number];
        if (part.down == nullptr || rows.own[row] < 0) return;
        const Number* down = part.down + rows.own[row] * model.rank * linear.inputs;
        for (long column = first; column < std::min(first + COLUMNS, model.rank); ++column)
            low_of(row, number)[column] = dot(x, down + column * linear.inputs, linear.inputs);
    }

    // y + bias + low B^T, of one part of a row.
    void widen(const Linear& linear, long number, Number* y, long row) {
        const Part& part = linear.part[number];
        const bool adapted = part.up != nullptr && rows.own != nullptr && rows.own[row] >= 0;
        if (!adapted && part.bias == nullptr) return;
        y += row * linear.outputs;
        for (long before = 0; before < number; ++before) y += linear.part[before].outputs;
        const Number* up = adapted ? part.up + rows.own[row] * model.rank * part.outputs : nullptr;
        for (long i = 0; i < part.outputs; i += LANES) {
            __m512 sum = widened(y + i);
            if (part.bias != nullptr) sum = rounded(_mm512_add_ps(sum, widened(part.bias + i)));
            for (long column = 0; adapted && column < model.rank; ++column) {
                const __m512 low = _mm512_set1_ps(low_of(row, number)[column]);
                sum = _mm512_fmadd_ps(low, widened(up + column * part.outputs + i), sum);
            }
            store(y + i, sum);
        }
    }

    void attention(const Layer& layer, Number* keys, Number* values) {
        const long width = model.head_width, shared = model.heads / model.groups;
        const long total = (model.heads + 2 * model.groups) * width;
        each(rows.count * model.groups, [&](long piece) {
            const long row = piece / model.groups, group = piece % model.groups, place = rows.places[row];
            const Number *cosines = rows.cosines + row * width, *sines = rows.sines + row * width;
            Number* query = all.heads.data() + row * total + group * shared * width;
            Number* key = all.heads.data() + row * total + (model.heads + group) * width;
            const Number* value = key + model.groups * width;
            for (Number* head = query; head < query + shared * width; head += width) {
                if (layer.queries != nullptr) normalise(head, layer.queries, model.epsilon, width, head);
                turn(head, cosines, sines, width);
            }
            if (layer.keys != nullptr) normalise(key, layer.keys, model.epsilon, width, key);
            turn(key, cosines, sines, width);
            const long slot = piece * rows.positions * width, first = std::max(0L, place - layer.window + 1);
            std::copy(key, key + width, keys + slot + place * width);
            std::copy(value, value + width, values + slot + place * width);
            const Slot seen{keys + slot + first * width, values + slot + first * width, place + 1 - first, width};
            attend(query, seen, shared, model.scale, all.attended.data() + piece * shared * width, scores);
        });
    }

    Shared& all;
    const Model& model;
    const Rows& rows;
    std::vector<float>& scores;
    long part = 0;
};

}  // namespace

extern "C" long step(const Model& model, const Rows& rows, long threads) {
    return told([&] {
        Shared all(model, rows, threads);
#pragma omp parallel num_threads(threads)
        Thread(all).step();
    });
}
