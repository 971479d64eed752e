// Products (`product.h`), for Python.

#include "product.h"

// x (rows, inputs), w in panels, y (rows, outputs); inputs are an even number.
extern "C" long product(const Number* x, const Number* w, Number* y, long rows, long inputs, long outputs,
                        long threads) {
    const Shape of{rows, inputs, outputs, inputs};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long thread = 0; thread < threads; ++thread) {
        const long begin = of.panels() * thread / threads, end = of.panels() * (thread + 1) / threads;
        for (long number = begin; number < end; ++number) panel(x, w, y, of, number);
    }
    return 0;
}
