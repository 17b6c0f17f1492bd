// Convolutions of float32 images, NHWC, with square kernels, HWIO, and their gradients, for XLA on the CPU.
//
// All are sums of one input value times a vector of output channels. A tile of such sums stays in registers
// until all its terms are added; what it reads lies in memory of its own, packed so that the inner loop meets
// no condition, and no distance the compiler does not know:
//
//   image    [block of 16 channels][row][column % step][column / step][16], with zeros where the padding is
//   kernel   [block of outputs][tap][input][outputs of the block], read from its beginning to its end
//
// Nothing depends on the number of threads: each sum runs in an order that the shapes alone decide.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// Floats of a register, and registers that hold sums: as many as hide the latency of an addition, and leave
// room for what is added.
#if defined(__AVX512F__)
constexpr int kLanes = 16, kSums = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8, kSums = 8;
#else
constexpr int kLanes = 4, kSums = 16;
#endif
constexpr int kBlock = 16;
constexpr int64_t kTerms = 256;
// Floats of a band of packed rows: half of a second-level cache, and most of a first-level one.
constexpr int64_t kSecondLevel = 1 << 16, kFirstLevel = 1 << 13;

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }

using Buffer = ffi::Buffer<ffi::F32, 4>;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Images {
  explicit Images(Buffer b)
      : data(b.typed_data()), count(b.dimensions()[0]), height(b.dimensions()[1]), width(b.dimensions()[2]),
        channels(b.dimensions()[3]) {}
  float* at(int64_t n, int64_t y, int64_t x) const { return data + ((n * height + y) * width + x) * channels; }

  float* data;
  int64_t count, height, width, channels;
};

// As many floats as were ever asked for, from the beginning of a cache line on.
class Memory {
 public:
  float* floats(int64_t count) {
    lines_.resize(std::max(lines_.size(), static_cast<size_t>(count + 15) / 16));
    return reinterpret_cast<float*>(lines_.data());
  }

 private:
  struct alignas(64) Line {
    float floats[16];
  };
  std::vector<Line> lines_;
};

thread_local Memory of_this_thread;

// task(0) to task(tasks - 1), each taken by the caller or by a thread of the pool, whichever is free. The
// caller waits only for what a thread has begun: a pool that is busy elsewhere slows it, and cannot block it.
template <typename Task>
void share(ffi::ThreadPool& pool, int64_t tasks, const Task& task) {
  struct Progress {
    std::atomic<int64_t> next{0}, done{0};
  };
  auto progress = std::make_shared<Progress>();  // a helper may come when all is done, and `task` gone
  auto work = [progress, tasks, &task] {
    for (int64_t i; (i = progress->next++) < tasks;) {
      task(i);
      if (++progress->done == tasks) progress->done.notify_all();
    }
  };
  for (int64_t n = std::min(tasks, pool.num_threads()); n > 1; --n) pool.Schedule(decltype(work)(work));
  work();
  for (int64_t done; (done = progress->done) < tasks;) progress->done.wait(done);
}

// What the results of a convolution, or of its gradient to the input, read along either side of an image:
// result `phase + phases * r` takes value `step * r + lag(tap)` of the packed side for each tap of its phase.
// The packed side begins `margin` before the image, and r results in a row meet `step * (r - 1) + reach`.
struct Window {
  int64_t phases() const { return gradient ? stride : 1; }
  int64_t step() const { return gradient ? 1 : stride; }
  int64_t phase(int64_t tap) const { return gradient ? (tap + stride * size - padding) % stride : 0; }
  int64_t lag(int64_t tap) const {
    return gradient ? (phase(tap) + padding - tap) / stride + margin() : tap;
  }
  int64_t margin() const { return gradient ? (size - 1 - padding) / stride : padding; }
  int64_t reach() const { return gradient ? margin() + (stride - 1 + padding) / stride + 1 : size; }
  int64_t span(int64_t results) const { return step() * ((results - 1) / phases()) + reach(); }

  int64_t size, stride, padding;
  bool gradient;
};

// Images as they are packed for rows of so many results.
struct Packed {
  Packed(Images images, Window window, int64_t results)
      : images(images), window(window), columns(ceil_div(window.span(results), window.step())),
        row(window.step() * columns * kBlock), blocks(ceil_div(images.channels, kBlock)) {}

  // Where the pixel lies in a packed block of channels.
  int64_t at(int64_t y, int64_t x) const {
    return y * row + (x % window.step() * columns + x / window.step()) * kBlock;
  }

  int depth(int64_t block) const { return std::min<int64_t>(kBlock, images.channels - block * kBlock); }

  // A block of channels of image n: so many rows, the first of which is `top`.
  void pack(int64_t n, int64_t block, int64_t top, int64_t rows, float* out) const {
    const int64_t step = window.step(), floats = depth(block);
    for (int64_t y = top; y < top + rows; ++y) {
      for (int64_t phase = 0; phase < step; ++phase, out += columns * kBlock) {
        const int64_t left = window.margin() - phase;  // where column c holds pixel c * step - left
        const bool inside = 0 <= y && y < images.height;
        const int64_t first = inside ? std::min(columns, ceil_div(std::max<int64_t>(left, 0), step)) : columns;
        const int64_t last = std::clamp(ceil_div(images.width + left, step), first, columns);
        std::fill(out, out + first * kBlock, 0.0f);
        for (int64_t c = first; c < last; ++c) {
          const float* from = images.at(n, y, c * step - left) + block * kBlock;
          if (floats == kBlock) std::copy_n(from, kBlock, out + c * kBlock);
          else std::fill(std::copy_n(from, floats, out + c * kBlock), out + (c + 1) * kBlock, 0.0f);
        }
        std::fill(out + last * kBlock, out + columns * kBlock, 0.0f);
      }
    }
  }

  Images images;
  Window window;
  int64_t columns, row, blocks;
};

// The kernel as it is packed for blocks of V vectors; the gradient to the input takes inputs for outputs.
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

// sums[depth][V vectors] += pixels[result][depth] * gradient[result][V vectors], over rows of results.
template <int V>
void add_products(const float* pixels, int64_t pixels_row, const float* gradient, int64_t rows, int64_t columns,
                  int64_t channels, int depth, float* sums) {
  constexpr int D = kSums / V;
  for (int first = 0; first < depth; first += D, pixels += D, sums += D * channels) {
    Vector sum[D][V] = {};
    const float* result = gradient;
    for (int64_t row = 0; row < rows; ++row) {
      const float* pixel = pixels + row * pixels_row;
      for (int64_t column = 0; column < columns; ++column, result += channels, pixel += kBlock) {
        Vector outputs[V];
        for (int v = 0; v < V; ++v) outputs[v] = load(result + v * kLanes);
#pragma GCC unroll 32
        for (int d = 0; d < D; ++d) {
          for (int v = 0; v < V; ++v) sum[d][v] += outputs[v] * pixel[d];
        }
      }
    }
#pragma GCC unroll 32
    for (int d = 0; d < D; ++d) {
      for (int v = 0; first + d < depth && v < V; ++v) {
        float* to = sums + d * channels + v * kLanes;
        store(to, load(to) + sum[d][v]);
      }
    }
  }
}

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
    float* image = of_this_thread.floats(window.span(band) * packed.row);
    for (int64_t n = part * in.count / parts; n < (part + 1) * in.count / parts; ++n) {
      for (int64_t first = 0; first < gradient.height; first += band) {
        const int64_t rows = std::min(band, gradient.height - first);
        packed.pack(n, block, first * window.stride - window.padding, window.span(rows), image);
        for (int64_t o = 0; o < gradient.channels; o += V * kLanes) {
          for (int64_t t = 0; t < taps; ++t) {
            add_products<V>(image + packed.at(t / window.size, t % window.size), window.stride * packed.row,
                            gradient.at(n, first, 0) + o, rows, gradient.width, gradient.channels,
                            packed.depth(block),
                            sums + part * elements + (t * in.channels + block * kBlock) * gradient.channels + o);
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

// Two vectors of outputs in a tile load half as often as one; where 32 outputs are no multiple, 16 are.
template <typename F>
ffi::Error by_width(int64_t outputs, const F& f) {
  constexpr int narrow = kBlock / kLanes, wide = kLanes == kBlock ? 2 : narrow;
  outputs % (wide * kLanes) ? f(std::integral_constant<int, narrow>()) : f(std::integral_constant<int, wide>());
  return ffi::Error::Success();
}

ffi::Error forward(ffi::ThreadPool pool, Buffer x, Buffer kernel, ffi::Result<Buffer> y, int64_t stride,
                   int64_t padding) {
  const Window window{kernel.dimensions()[0], stride, padding, false};
  return by_width(y->dimensions()[3], [&](auto v) {
    correlate<v>(pool, Images(x), Images(kernel), window, Images(*y));
  });
}

ffi::Error input_gradient(ffi::ThreadPool pool, Buffer g, Buffer kernel, ffi::Result<Buffer> x, int64_t stride,
                          int64_t padding) {
  const Window window{kernel.dimensions()[0], stride, padding, true};
  return by_width(x->dimensions()[3], [&](auto v) {
    correlate<v>(pool, Images(g), Images(kernel), window, Images(*x));
  });
}

ffi::Error kernel_gradient(ffi::ThreadPool pool, Buffer x, Buffer g, ffi::Result<Buffer> kernel, int64_t stride,
                           int64_t padding) {
  const Window window{kernel->dimensions()[0], stride, padding, false};
  return by_width(g.dimensions()[3], [&](auto v) {
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
