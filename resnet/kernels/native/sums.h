// Sums that stay in registers until their terms are added: of values times vectors of output channels, for
// convolutions and their gradients to the input, and of values times gradients, for those to the kernel.
#pragma once

#include <array>
#include <span>
#include <utility>

#include "packing.h"

namespace {

// What becomes of a sum before it is written: sum * scale + offset, plus the shortcut unless that is null, and zero
// where that is negative if it rectifies.
struct Ending {
  // The same, from an output channel and from a place in the result on.
  Ending from(int64_t channel, int64_t place) const {
    return {scale + channel, offset + channel, shortcut ? shortcut + place : nullptr, rectifies};
  }

  Vector of(Vector sum, int64_t channel, int64_t place) const {
    sum = sum * load(scale + channel) + load(offset + channel);
    if (shortcut) sum += load(shortcut + place);
    return rectifies ? relu(sum) : sum;
  }

  const float *scale, *offset, *shortcut;
  bool rectifies;
};

// Terms of a sum: of one tap, channels that lie side by side in the packed image, up to kBlock of them.
struct Terms {
  int64_t pixel, weights, channels;  // where they begin in what is packed, and their number
};
using Chunk = std::span<const Terms>;

// The terms in chunks of about kTerms. A sum within a chunk rounds as a short one, and the kernels of a chunk
// stay in a first-level cache while all tiles of a band read them.
std::vector<Chunk> chunks_of(const std::vector<Terms>& terms) {
  std::vector<Chunk> chunks;
  int64_t count = 0;
  size_t first = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    if (count >= kTerms) chunks.emplace_back(&terms[first], i - first), first = i, count = 0;
    count += terms[i].channels;
  }
  chunks.emplace_back(terms.data() + first, terms.size() - first);
  return chunks;
}

// A result: where what it reads begins in the packed image, and where it is written.
struct Place {
  int64_t pixel, result;
};

// Writes the sums of V vectors of outputs at P places: V loads of the kernel serve P * V products, each of which
// takes its other factor, one float for all lanes, from memory.
template <int P, int V>
void tile(const float* image, const float* kernel, const std::vector<Chunk>& chunks, const Place* places, float* out,
          const Ending* ending) {
  const float* pixel[P];
  for (int p = 0; p < P; ++p) pixel[p] = image + places[p].pixel;
  for (const Chunk& chunk : chunks) {
    Vector sum[P][V] = {};
    for (const Terms& terms : chunk) {
      const float* weights = kernel + terms.weights;
      for (int64_t i = terms.pixel; i < terms.pixel + terms.channels; ++i, weights += V * kLanes) {
        Vector outputs[V];
        for (int v = 0; v < V; ++v) outputs[v] = load(weights + v * kLanes);
#pragma GCC unroll 32
        for (int p = 0; p < P; ++p) {
          for (int v = 0; v < V; ++v) sum[p][v] += outputs[v] * pixel[p][i];
        }
      }
    }
    const bool begun = &chunk != &chunks.front(), ends = ending && &chunk == &chunks.back();
#pragma GCC unroll 32
    for (int p = 0; p < P; ++p) {
      for (int v = 0; v < V; ++v) {
        const int64_t at = places[p].result + v * kLanes;
        const Vector value = begun ? load(out + at) + sum[p][v] : sum[p][v];
        store(out + at, ends ? ending->of(value, v * kLanes, at) : value);
      }
    }
  }
}

template <int V>
constexpr auto tiles = []<size_t... p>(std::index_sequence<p...>) {
  return std::array{&tile<p + 1, V>...};
}(std::make_index_sequence<kSums / V>{});

// The sums that `chunks` add up, for all outputs, at `count` places.
template <int V>
void sweep(const float* image, const float* weights, const std::vector<Chunk>& chunks, const Place* places,
           int64_t count, int64_t weights_of_output, Images out, const Ending* ending) {
  const int64_t parts = ceil_div(count, kSums / V);  // as equal as can be
  for (int64_t o = 0; o < out.channels; o += V * kLanes) {
    const Ending here = ending ? ending->from(o, o) : Ending{};
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = part * count / parts, end = (part + 1) * count / parts;
      tiles<V>[end - begin - 1](image, weights + o * weights_of_output, chunks, places + begin, out.data + o,
                                ending ? &here : nullptr);
    }
  }
}

// sums[D inputs][V vectors] = pixels[result][D inputs] * gradient[result][V vectors], over rows of results, added to what
// is there if they are begun.
template <int D, int V>
void add_products(const float* pixels, int64_t pixels_row, const float* gradient, int64_t gradient_step, int64_t rows,
                  int64_t columns, float* sums, int64_t sums_step, bool begun) {
  Vector sum[D][V] = {};
  for (int64_t row = 0; row < rows; ++row) {
    const float* pixel = pixels + row * pixels_row;
    for (int64_t column = 0; column < columns; ++column, gradient += gradient_step, pixel += kBlock) {
      Vector outputs[V];
      for (int v = 0; v < V; ++v) outputs[v] = load(gradient + v * kLanes);
#pragma GCC unroll 32
      for (int d = 0; d < D; ++d) {
        for (int v = 0; v < V; ++v) sum[d][v] += outputs[v] * pixel[d];
      }
    }
  }
#pragma GCC unroll 32
  for (int d = 0; d < D; ++d) {
    for (int v = 0; v < V; ++v) {
      float* to = sums + d * sums_step + v * kLanes;
      store(to, begun ? load(to) + sum[d][v] : sum[d][v]);
    }
  }
}

template <int V>
constexpr auto products = []<size_t... d>(std::index_sequence<d...>) {
  return std::array{&add_products<d + 1, V>...};
}(std::make_index_sequence<kSums / V>{});

// The same for any number of inputs.
template <int V>
void add_block(int64_t depth, const float* pixels, int64_t pixels_row, const float* gradient, int64_t gradient_step,
               int64_t rows, int64_t columns, float* sums, int64_t sums_step, bool begun) {
  const int64_t pieces = ceil_div(depth, kSums / V);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t d = piece * depth / pieces, end = (piece + 1) * depth / pieces;
    products<V>[end - d - 1](pixels + d, pixels_row, gradient, gradient_step, rows, columns, sums + d * sums_step,
                             sums_step, begun);
  }
}

// The same for values and gradients at so many points of all tiles: sums[point][input][output]. Band by band all threads
// pack them, take(tile, values, gradients, its place in these), and then add products: a task those of some channels,
// which caches hold.
template <int V, typename Take>
void add_points(ffi::ThreadPool& pool, const Tiles& all, int64_t points, int64_t inputs, int64_t outputs, float* sums,
                const Take& take) {
  constexpr int64_t wide = V * kLanes, own = 64, pieces = 16;
  const int64_t rows = ceil_div(inputs, own), columns = ceil_div(outputs, own);
  Points values(all.of_band, inputs, kBlock), gradients(all.of_band, outputs, wide);
  Memory memory;
  values.data = memory.floats(points * (values.step + gradients.step));
  gradients.data = values.data + points * values.step;
  for (int64_t band = 0; band < all.bands; ++band) {
    const int64_t begin = all.begin(band), count = all.begin(band + 1) - begin, parts = ceil_div(count, 2 * kTerms);
    share(pool, pieces, [&](int64_t piece) {
      for (int64_t i = piece * count / pieces; i < (piece + 1) * count / pieces; ++i) {
        take(begin + i, values, gradients, i);
      }
    });
    share(pool, points * rows * columns, [&](int64_t task) {
      const int64_t point = task / columns / rows, row = task / columns % rows * own, column = task % columns * own;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = part * count / parts, number = (part + 1) * count / parts - first;
        for (int64_t o = column; o < std::min(outputs, column + own); o += wide) {
          for (int64_t i = row; i < std::min(inputs, row + own); i += kBlock) {
            add_block<V>(kBlock, values.at(point, first, i), 0, gradients.at(point, first, o), wide, 1, number,
                         sums + (point * inputs + i) * outputs + o, outputs, band + part > 0);
          }
        }
      }
    });
  }
}

}  // namespace
