// Convolutions of float32 images, NHWC, with square kernels, HWIO, and their gradients, for XLA on the CPU.
//
// All are sums of one input value times a vector of output channels. A tile of such sums stays in registers
// until its terms are added; what it reads, images (packing.h) and kernels, is packed before. Nothing depends
// on the number of threads: each sum runs in an order that the shapes alone decide.
#include <array>
#include <type_traits>
#include <utility>

#include "packing.h"

namespace {

// The kernel as [block of V vectors of outputs][tap][input][outputs], read from its beginning to its end. The
// gradient to the input takes inputs for outputs.
template <int V>
void pack_kernel(ffi::ThreadPool& pool, Images kernel, bool gradient, float* packed) {
  const int64_t taps = kernel.count * kernel.height, wide = V * kLanes;
  const int64_t inputs = gradient ? kernel.channels : kernel.width;
  const int64_t outputs = gradient ? kernel.width : kernel.channels;
  share(pool, outputs / wide * taps, [&](int64_t task) {
    const float* from = kernel.at(0, task % taps, 0);
    float* to = packed + task * inputs * wide;
    for (int64_t i = 0, first = task / taps * wide; i < inputs; ++i, to += wide) {
      if (!gradient) std::copy_n(from + i * outputs + first, wide, to);
      else for (int64_t o = 0; o < wide; ++o) to[o] = from[(first + o) * inputs + i];
    }
  });
}

struct Tap {
  int64_t pixel, kernel;  // offsets in what is packed
};

// The sums of V vectors of outputs for P results side by side: V loads of the kernel serve P * V products,
// each of which takes its other factor, one float for all lanes, from memory. Sums of many terms are added up
// in parts of about kTerms, which keeps the rounding that of short ones.
template <int P, int V>
void tile(const float* image, int64_t block_floats, int64_t channels, const std::vector<Tap>& taps,
          const float* kernel, float* result, int64_t result_step) {
  Vector sum[P][V] = {};
  int64_t terms = 0;
  bool partly = false;
  auto flush = [&]() __attribute__((always_inline)) {
#pragma GCC unroll 32
    for (int p = 0; p < P; ++p) {
      for (int v = 0; v < V; ++v) {
        float* to = result + p * result_step + v * kLanes;
        store(to, partly ? load(to) + sum[p][v] : sum[p][v]);
        sum[p][v] = Vector{};
      }
    }
    partly = true, terms = 0;
  };
  for (const Tap& tap : taps) {
    const float* weights = kernel + tap.kernel;
    const float* pixel = image + tap.pixel;
    auto add = [&](int channel) __attribute__((always_inline)) {
      Vector outputs[V];
      for (int v = 0; v < V; ++v) outputs[v] = load(weights + v * kLanes);
#pragma GCC unroll 32
      for (int p = 0; p < P; ++p) {
        for (int v = 0; v < V; ++v) sum[p][v] += outputs[v] * pixel[p * kBlock + channel];
      }
      weights += V * kLanes;
    };
    int64_t rest = channels;
    for (; rest >= kBlock; rest -= kBlock, pixel += block_floats) {
      if (terms >= kTerms) flush();
      terms += kBlock;
#pragma GCC unroll 4
      for (int channel = 0; channel < kBlock; ++channel) add(channel);
    }
    for (int channel = 0; channel < rest; ++channel) add(channel);
  }
  flush();
}

template <int V>
constexpr auto tiles = []<size_t... p>(std::index_sequence<p...>) {
  return std::array{&tile<p + 1, V>...};
}(std::make_index_sequence<kSums / V>{});

// Convolution, or its gradient to the input: bands of rows are packed, and read by all blocks of outputs.
template <int V>
void correlate(ffi::ThreadPool& pool, Images in, Images kernel, Window window, Images out) {
  constexpr int64_t wide = V * kLanes, most = kSums / V;
  const int64_t phases = window.phases(), taps = window.size * window.size;
  Memory kernel_memory;
  float* weights = kernel_memory.floats(taps * in.channels * out.channels);
  pack_kernel<V>(pool, kernel, window.gradient, weights);

  const Packed packed(in, window, out.width);
  std::vector<std::vector<Tap>> taps_of(phases * phases);
  for (int64_t t = 0; t < taps; ++t) {
    const int64_t y = t / window.size, x = t % window.size;
    taps_of[window.phase(y) * phases + window.phase(x)].push_back(
        {packed.at(window.lag(y), window.lag(x)), t * in.channels * wide});
  }
  const int64_t row_floats = packed.blocks * packed.row * window.step();
  const int64_t band = phases * std::clamp<int64_t>(kSecondLevel / row_floats, 1, out.height);
  const int64_t bands = ceil_div(out.height, band);
  share(pool, in.count * bands, [&](int64_t task) {
    const int64_t n = task / bands, first = task % bands * band, last = std::min(first + band, out.height);
    const int64_t rows = window.span(last - first), block_floats = rows * packed.row;
    float* image = of_this_thread.floats(packed.blocks * block_floats);
    for (int64_t block = 0; block < packed.blocks; ++block) {
      const int64_t top = first / phases * window.step() - window.margin();
      packed.pack(n, block, top, rows, image + block * block_floats);
    }
    for (int64_t o = 0; o < out.channels; o += wide) {
      for (int64_t y = first; y < last; ++y) {
        const float* row = image + packed.at((y - first) / phases * window.step(), 0);
        for (int64_t phase = 0; phase < phases; ++phase) {
          const int64_t width = ceil_div(out.width - phase, phases);
          const int64_t parts = ceil_div(width, most);  // as equal as can be
          for (int64_t part = 0; part < parts; ++part) {
            const int64_t x = part * width / parts, end = (part + 1) * width / parts;
            tiles<V>[end - x - 1](
                row + x * kBlock, block_floats, in.channels, taps_of[y % phases * phases + phase],
                weights + o * taps * in.channels, out.at(n, y, x * phases + phase) + o, phases * out.channels);
          }
        }
      }
    }
  });
}

// sums[D inputs][V vectors] += pixels[result][D inputs] * gradient[result][V vectors], over rows of results.
template <int D, int V>
void add_products(const float* pixels, int64_t pixels_row, const float* gradient, int64_t rows, int64_t columns,
                  int64_t channels, float* sums) {
  Vector sum[D][V] = {};
  for (int64_t row = 0; row < rows; ++row) {
    const float* pixel = pixels + row * pixels_row;
    for (int64_t column = 0; column < columns; ++column, gradient += channels, pixel += kBlock) {
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
      float* to = sums + d * channels + v * kLanes;
      store(to, load(to) + sum[d][v]);
    }
  }
}

template <int V>
constexpr auto products = []<size_t... d>(std::index_sequence<d...>) {
  return std::array{&add_products<d + 1, V>...};
}(std::make_index_sequence<kSums / V>{});

// Gradient to the kernel: a task is a block of inputs and, where there are few blocks, a part of the batch.
template <int V>
void sum_products(ffi::ThreadPool& pool, Images in, Images gradient, Window window, Images kernel) {
  const Packed packed(in, window, gradient.width);
  const int64_t taps = window.size * window.size, elements = taps * in.channels * gradient.channels;
  const int64_t parts = std::min<int64_t>(in.count, ceil_div(16, packed.blocks));
  Memory memory;
  float* sums = memory.floats(parts * elements);
  const int64_t band =
      std::clamp<int64_t>(kFirstLevel / (packed.row * window.step()), 1, gradient.height);
  share(pool, parts * packed.blocks, [&](int64_t task) {
    const int64_t part = task / packed.blocks, block = task % packed.blocks;
    const int64_t depth = packed.depth(block), pieces = ceil_div(depth, kSums / V);
    float* image = of_this_thread.floats(window.span(band) * packed.row);
    for (int64_t n = part * in.count / parts; n < (part + 1) * in.count / parts; ++n) {
      for (int64_t first = 0; first < gradient.height; first += band) {
        const int64_t rows = std::min(band, gradient.height - first);
        packed.pack(n, block, first * window.stride - window.padding, window.span(rows), image);
        for (int64_t o = 0; o < gradient.channels; o += V * kLanes) {
          for (int64_t t = 0; t < taps; ++t) {
            const float* pixels = image + packed.at(t / window.size, t % window.size);
            float* to = sums + part * elements + (t * in.channels + block * kBlock) * gradient.channels + o;
            for (int64_t piece = 0; piece < pieces; ++piece) {
              const int64_t d = piece * depth / pieces, end = (piece + 1) * depth / pieces;
              products<V>[end - d - 1](pixels + d, window.stride * packed.row, gradient.at(n, first, 0) + o, rows,
                                       gradient.width, gradient.channels, to + d * gradient.channels);
            }
          }
        }
      }
    }
  });
  std::copy_n(sums, elements, kernel.data);
  for (int64_t part = 1; part < parts; ++part) {
    for (int64_t i = 0; i < elements; ++i) kernel.data[i] += sums[part * elements + i];
  }
}

// Whether the window takes x to y along one side.
bool meets(int64_t x, int64_t y, const Window& window) {
  const int64_t free = x + 2 * window.padding - window.size;
  return free >= 0 && y == free / window.stride + 1;
}

// f(vectors in a tile) for images x, their kernel and their convolution y, whichever of these is computed from
// the others, or an error where they do not fit. The memory that is read and written follows from their shapes,
// so a wrong one must not pass. `blocked` are the channels of the result that come in blocks. Two vectors of
// outputs in a tile load half as often as one; where 32 outputs are no multiple, 16 are.
template <typename F>
ffi::Error checked(Buffer x, Buffer kernel, Buffer y, const Window& window, int64_t blocked, const F& f) {
  const auto in = x.dimensions(), weights = kernel.dimensions(), out = y.dimensions();
  const bool filled = x.element_count() > 0 && kernel.element_count() > 0 && y.element_count() > 0;
  const bool possible = 0 < window.stride && window.stride <= window.size + std::max(in[1], in[2]) &&
                        0 <= window.padding && window.padding < window.size;
  if (!filled || !possible || weights[0] != weights[1] || in[0] != out[0] || in[3] != weights[2] ||
      out[3] != weights[3] || !meets(in[1], out[1], window) || !meets(in[2], out[2], window) || blocked % kBlock) {
    return ffi::Error::InvalidArgument(
        "no native convolution takes " + text(in) + " by a kernel " + text(weights) + " to " + text(out) +
        " with stride " + std::to_string(window.stride) + " and padding " + std::to_string(window.padding));
  }
  return guarded([&] {
    constexpr int narrow = kBlock / kLanes, wide = kLanes == kBlock ? 2 : narrow;
    blocked % (wide * kLanes) ? f(std::integral_constant<int, narrow>()) : f(std::integral_constant<int, wide>());
    return ffi::Error::Success();
  });
}

ffi::Error forward(ffi::ThreadPool pool, Buffer x, Buffer kernel, ffi::Result<Buffer> y, int64_t stride,
                   int64_t padding) {
  const Window window{kernel.dimensions()[0], stride, padding, false};
  return checked(x, kernel, *y, window, y->dimensions()[3], [&](auto v) {
    correlate<v>(pool, Images(x), Images(kernel), window, Images(*y));
  });
}

ffi::Error input_gradient(ffi::ThreadPool pool, Buffer g, Buffer kernel, ffi::Result<Buffer> x, int64_t stride,
                          int64_t padding) {
  const Window window{kernel.dimensions()[0], stride, padding, true};
  return checked(*x, kernel, g, window, x->dimensions()[3], [&](auto v) {
    correlate<v>(pool, Images(g), Images(kernel), window, Images(*x));
  });
}

ffi::Error kernel_gradient(ffi::ThreadPool pool, Buffer x, Buffer g, ffi::Result<Buffer> kernel, int64_t stride,
                           int64_t padding) {
  const Window window{kernel->dimensions()[0], stride, padding, false};
  return checked(x, *kernel, g, window, g.dimensions()[3], [&](auto v) {
    sum_products<v>(pool, Images(x), Images(g), window, Images(*kernel));
  });
}

auto signature() {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>()
      .Attr<int64_t>("stride").Attr<int64_t>("padding");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_forward, forward, signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_input_gradient, input_gradient, signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_kernel_gradient, kernel_gradient, signature());
