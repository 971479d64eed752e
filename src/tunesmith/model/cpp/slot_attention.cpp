// Attention (`slot_attention.h`), for Python.

#include <omp.h>

#include "slot_attention.h"

// query and output (rows, groups, shared, width); keys and values (rows, groups, positions, width), of which the last
// two axes lie together; places: the position of each row's token, so many numbers apart. Width is a multiple of 32.
extern "C" long attention(const Number* query, const Number* keys, const Number* values, const std::int64_t* places,
                          Number* output, long rows, long groups, long shared, long width, long positions, long key_row,
                          long key_group, long value_row, long value_group, long places_apart, long window, float scale,
                          long threads) {
    return told([&] {
        std::vector<std::vector<float>> scores(threads);
        for (auto& one : scores) one.reserve(room_for_scores(positions));
#pragma omp parallel num_threads(threads)
#pragma omp for schedule(static)
        for (long one = 0; one < rows * groups; ++one) {
            const long row = one / groups, group = one % groups;
            const long place = std::clamp(places[row * places_apart], 0L, positions - 1);
            const long first = std::max(0L, place - window + 1);
            const Slot slot{keys + row * key_row + group * key_group + first * width,
                            values + row * value_row + group * value_group + first * width, place + 1 - first, width};
            const long begin = one * shared * width;
            attend(query + begin, slot, shared, scale, output + begin, scores[omp_get_thread_num()]);
        }
    });
}
