// Sums of values times vectors of output channels, for convolutions and their gradients to the input: a tile of them
// stays in registers until its terms are added.
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
inline std::vector<Chunk> chunks_of(const std::vector<Terms>& terms) {
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

// Sums of V vectors of outputs, to each of which all values contribute.
template <int V>
struct Dense {
  static constexpr int64_t wide = V * kLanes;
  static constexpr auto tiles = []<size_t... p>(std::index_sequence<p...>) {
    return std::array{&tile<p + 1, V>...};
  }(std::make_index_sequence<kSums / V>{});
  static int64_t read_by(int64_t) { return 0; }
};

// The sums that `chunks` add up, for all outputs, at `count` places; `Sums` is Dense or Grouped.
template <typename Sums>
void sweep(const float* image, const float* weights, const std::vector<Chunk>& chunks, const Place* places,
           int64_t count, int64_t weights_of_output, Images out, const Ending* ending) {
  const int64_t parts = ceil_div(count, Sums::tiles.size());  // as equal as can be
  for (int64_t o = 0; o < out.channels; o += Sums::wide) {
    const Ending here = ending ? ending->from(o, o) : Ending{};
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = part * count / parts, end = (part + 1) * count / parts;
      Sums::tiles[end - begin - 1](image + Sums::read_by(o), weights + o * weights_of_output, chunks, places + begin,
                                   out.data + o, ending ? &here : nullptr);
    }
  }
}

}  // namespace
