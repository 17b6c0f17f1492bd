// Groups of so few channels that a vector holds several: a result takes the values of its own group only, which are spread
// over the group's lanes.
#pragma once

#include "sums.h"

namespace {

// In each group of G lanes, the value J of the group.
template <int G, size_t J>
Vector spread(Vector values) {
  return [&]<size_t... lane>(std::index_sequence<lane...>) {
#ifdef __clang__
    return __builtin_shufflevector(values, values, (lane / G * G + J)...);
#else  // GCC knows that name since its version 12.
    typedef int32_t Lanes __attribute__((vector_size(sizeof(Vector))));
    return __builtin_shuffle(values, Lanes{int32_t{lane / G * G + J}...});
#endif
  }(std::make_index_sequence<kLanes>{});
}

// f(an integral constant) for 0 to N - 1.
template <size_t N, typename F>
inline __attribute__((always_inline)) void unrolled(const F& f) {
  [&]<size_t... i>(std::index_sequence<i...>) { (f(std::integral_constant<size_t, i>()), ...); }(std::make_index_sequence<N>{});
}

// Writes the sums of a vector of outputs at P places; a term is a vector of values.
template <int P, int G>
void group_tile(const float* image, const float* kernel, const std::vector<Chunk>& chunks, const Place* places, float* out,
                const Ending* ending) {
  const float* pixel[P];
  for (int p = 0; p < P; ++p) pixel[p] = image + places[p].pixel;
  Vector sum[P] = {};
  for (const Chunk& chunk : chunks) {
    for (const Terms& terms : chunk) {
      Vector weights[G];
      for (int j = 0; j < G; ++j) weights[j] = load(kernel + terms.weights + j * kLanes);
#pragma GCC unroll 32
      for (int p = 0; p < P; ++p) {
        const Vector values = load(pixel[p] + terms.pixel);
        unrolled<G>([&](auto j) { sum[p] += weights[j] * spread<G, j>(values); });
      }
    }
  }
#pragma GCC unroll 32
  for (int p = 0; p < P; ++p) {
    const int64_t at = places[p].result;
    store(out + at, ending ? ending->of(sum[p], 0, at) : sum[p]);
  }
}

// Sums of a vector of outputs, in groups of G.
template <int G>
struct Grouped {
  static constexpr int64_t wide = kLanes;
  static constexpr auto tiles = []<size_t... p>(std::index_sequence<p...>) {
    return std::array{&group_tile<p + 1, G>...};
  }(std::make_index_sequence<kSums / 2>{});
  static int64_t read_by(int64_t output) { return output; }
};

// Whether there are groups of which a vector holds several; then f(channels of a group) is called.
template <int G = 1, typename F>
bool grouped(const Window& window, Images kernel, const F& f) {
  if constexpr (G < kLanes) {
    if (window.groups == 1 || kernel.width != G) return grouped<2 * G>(window, kernel, f);
    f(std::integral_constant<int, G>());
    return true;
  }
  return false;
}

// The kernel as [vector of outputs][tap][input of the group][outputs]; the gradient to the input takes inputs for outputs.
template <int G>
void pack_groups(Images kernel, const Window& window, int64_t outputs, float* to) {
  for (int64_t first = 0; first < outputs; first += kLanes) {
    for (int64_t tap = 0; tap < window.size * window.size; ++tap) {
      for (int64_t j = 0; j < G; ++j, to += kLanes) {
        for (int64_t o = first; o < first + kLanes; ++o) {
          to[o - first] = window.gradient ? kernel.at(0, tap, o % G)[o / G * G + j] : kernel.at(0, tap, j)[o];
        }
      }
    }
  }
}

}  // namespace
