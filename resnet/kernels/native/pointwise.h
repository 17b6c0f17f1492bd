// 1x1 kernels: products of matrices, whose rows are the pixels of all images.
#pragma once

#include "sums.h"

namespace {

// Convolution, or its gradient to the input: a task takes a band of pixels of any images, and reads them where they lie,
// or copies what a norm makes of them once.
template <int V>
void pointwise(ffi::ThreadPool& pool, Images in, Images kernel, const Window& window, Images out, const Ending* ending) {
  const int64_t inputs = in.channels, read = window.step(), written = window.phases();
  Memory memory;
  float* weights = memory.floats(inputs * out.channels);
  pack_kernel<V>(pool, kernel, window, in, out, weights);
  std::vector<Terms> terms;
  for (int64_t c = 0; c < inputs; c += kTerms) terms.push_back({c, c * V * kLanes, std::min(kTerms, inputs - c)});
  const std::vector<Chunk> chunks = chunks_of(terms);
  const Tiles all(window.gradient ? in : out, 1, kSums / V, ceil_div(kSecondLevel, inputs), pool.num_threads());
  share(pool, all.bands, [&](int64_t band) {
    const int64_t first = all.begin(band), count = all.begin(band + 1) - first;
    float* image = in.scale ? of_this_thread.floats(count * inputs) : in.data;
    std::vector<Place> places;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t n = all.image(first + i), y = all.top(first + i), x = all.left(first + i);
      const float* from = in.at(n, y * read, x * read);
      places.push_back({in.scale ? i * inputs : from - in.data, out.at(n, y * written, x * written) - out.data});
      if (in.scale) {
        const Images own = in.as(n);
        for (int64_t c = 0; c < inputs; c += kLanes) store(image + i * inputs + c, own.read(from, c));
      }
      for (int64_t other = 1; other < written * written; ++other) {  // pixels between them, which nothing meets
        const int64_t top = y * written + other / written, left = x * written + other % written;
        if (out.holds(top, left)) std::fill_n(out.at(n, top, left), out.channels, 0.0f);
      }
    }
    sweep<Dense<V>>(image, weights, chunks, places.data(), count, inputs, out, ending);
  });
}

}  // namespace
