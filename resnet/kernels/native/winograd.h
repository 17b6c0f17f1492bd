// Winograd's algorithm F(2x2, 3x3): for 2x2 results a 3x3 kernel of stride 1 takes 16 products of transformed values
// and weights, each summed over channels, where plain sums take 36 (Lavin and Gray 2016). It is as exact in float32.
// A value that is not finite reaches all results of the tiles that read it.
#pragma once

#include "sums.h"

namespace {

template <size_t N>
struct Side {
  Vector at[N];
};

// The transforms along one side: of values, of weights, and of sums of products to results.
inline Side<4> of_values(Side<4> d) { return {d.at[0] - d.at[2], d.at[1] + d.at[2], d.at[2] - d.at[1], d.at[1] - d.at[3]}; }
inline Side<4> of_weights(Side<3> g) {
  const Vector ends = (g.at[0] + g.at[2]) * 0.5f, middle = g.at[1] * 0.5f;
  return {g.at[0], ends + middle, ends - middle, g.at[2]};
}
inline Side<2> to_results(Side<4> m) { return {m.at[0] + m.at[1] + m.at[2], m.at[1] - m.at[2] - m.at[3]}; }

// Transforms N x N vectors from(y, x) along both sides, and hands on what results: to(y, x, vector).
template <size_t N, size_t M, typename From, typename To>
inline __attribute__((always_inline)) void transform(Side<M> (*f)(Side<N>), const From& from, const To& to) {
  Side<M> columns[N];
  for (size_t x = 0; x < N; ++x) {
    Side<N> column;
    for (size_t y = 0; y < N; ++y) column.at[y] = from(y, x);
    columns[x] = f(column);
  }
  for (size_t y = 0; y < M; ++y) {
    Side<N> row;
    for (size_t x = 0; x < N; ++x) row.at[x] = columns[x].at[y];
    const Side<M> found = f(row);
    for (size_t x = 0; x < M; ++x) to(y, x, found.at[x]);
  }
}

// Takes for a tile the N x N pixels from (top, left) of image n on, zero where there are none.
template <size_t N>
void take(const Points& points, Side<4> (*f)(Side<N>), Images images, int64_t n, int64_t top, int64_t left, int64_t tile) {
  const Images own = images.as(n);
  const float* pixels[N][N];
  for (int64_t y = 0; y < int64_t{N}; ++y) {
    for (int64_t x = 0; x < int64_t{N}; ++x) {
      pixels[y][x] = images.holds(top + y, left + x) ? images.at(n, top + y, left + x) : nullptr;
    }
  }
  for (int64_t c = 0; c < images.channels; c += kLanes) {
    float* to = points.at(0, tile, c);
    transform(f, [&](size_t y, size_t x) { return pixels[y][x] ? own.read(pixels[y][x], c) : Vector{}; },
              [&](size_t y, size_t x, Vector value) { store(to + (4 * y + x) * points.step, value); });
  }
}

// Whether it serves these images and results: where tiles are few, transforming the kernel takes longer than it saves.
bool winograd_serves(const Window& window, Images in, Images out) {
  return window.size == 3 && window.stride == 1 && window.groups == 1 && in.channels % kBlock == 0 &&
         std::min(in.channels, out.channels) > kBlock && Tiles(out, 2, 1, 1, 1).count >= 64;
}

// The kernel as [point][block of V vectors of outputs][input][outputs].
template <int V>
void transform_kernel(ffi::ThreadPool& pool, Images kernel, const Window& window, Images in, Images out, float* to) {
  const int64_t wide = V * kLanes, floats = in.channels * wide;
  share(pool, out.channels / wide, [&](int64_t block) {
    float* taps = of_this_thread.floats(9 * floats);
    for (int64_t tap = 0; tap < 9; ++tap) pack_tap<V>(kernel, window, in, tap, block * wide, taps + tap * floats);
    for (int64_t i = 0; i < floats; i += kLanes) {
      transform(of_weights,
                [&](size_t y, size_t x) { return load(taps + (window.lag(y) * 3 + window.lag(x)) * floats + i); },
                [&](size_t y, size_t x, Vector weight) {
                  store(to + (4 * y + x) * in.channels * out.channels + block * floats + i, weight);
                });
    }
  });
}

// Convolution, or its gradient to the input.
template <int V>
void winograd(ffi::ThreadPool& pool, Images in, Images kernel, const Window& window, Images out, const Ending* ending) {
  const int64_t most = std::max<int64_t>(1, kThirdLevel / 1024 / in.channels) * 64;
  if (out.channels > most) {  // Some outputs after the others, for a cache to hold the transformed kernel.
    winograd<V>(pool, in, kernel, window, out.part(0, most), ending);
    const Ending rest = ending ? ending->from(most, most) : Ending{};
    kernel.data += most * (window.gradient ? kernel.step : 1);
    return winograd<V>(pool, in, kernel, window, out.part(most, out.channels - most), ending ? &rest : nullptr);
  }
  const int64_t inputs = in.channels, outputs = out.channels, wide = V * kLanes;
  const int64_t kept = outputs % 64 ? wide : 64;  // outputs whose sums a cache keeps
  Memory memory;
  float* weights = memory.floats(16 * inputs * outputs);
  transform_kernel<V>(pool, kernel, window, in, out, weights);

  // As many tiles as a second-level cache holds, or more for the kernel to be read less often.
  const Tiles all(out, 2, kSums / V, std::max({int64_t{48}, kSecondLevel / 16 / (inputs + kept), inputs * outputs / 2048}),
                  pool.num_threads());
  const Points shape(all.of_band, inputs, kBlock);
  const int64_t step = all.of_band * kept + kBlock;  // from the sums of one point to the next
  std::vector<Terms> terms;
  for (int64_t c = 0; c < inputs; c += kBlock) terms.push_back({c * all.of_band, c * wide, kBlock});
  const std::vector<Chunk> chunks = chunks_of(terms);
  std::vector<Place> places;
  for (int64_t tile = 0; tile < all.of_band; ++tile) places.push_back({tile * kBlock, tile * kept});
  share(pool, all.bands, [&](int64_t band) {
    const int64_t first = all.begin(band), count = all.begin(band + 1) - first;
    Points values = shape;
    values.data = of_this_thread.floats(16 * shape.step + 16 * step);
    float* sums = values.data + 16 * shape.step;
    for (int64_t tile = 0; tile < count; ++tile) {
      take(values, of_values, in, all.image(first + tile), all.top(first + tile) - window.margin(),
           all.left(first + tile) - window.margin(), tile);
    }
    for (int64_t o = 0; o < outputs; o += kept) {
      for (int64_t point = 0; point < 16; ++point) {
        Images to = out.part(o, kept);
        to.data = sums + point * step;
        sweep<Dense<V>>(values.at(point, 0, 0), weights + (point * outputs + o) * inputs, chunks, places.data(), count, inputs,
                 to, nullptr);
      }
      for (int64_t tile = 0; tile < count; ++tile) {
        const int64_t n = all.image(first + tile), top = all.top(first + tile), left = all.left(first + tile);
        for (int64_t c = 0; c < kept; c += kLanes) {
          const float* from = sums + tile * kept + c;
          transform(to_results, [&](size_t y, size_t x) { return load(from + (4 * y + x) * step); },
                    [&](size_t y, size_t x, Vector result) {
                      if (!out.holds(top + y, left + x)) return;
                      const int64_t at = out.at(n, top + y, left + x) + o + c - out.data;
                      store(out.data + at, ending ? ending->of(result, o + c, at) : result);
                    });
        }
      }
    }
  });
}

}  // namespace
