// What the convolutions are made of: vectors, memory, threads, and images packed so that reading them takes
// neither conditions nor distances that the compiler does not know:
//
//   [block of 16 channels][row][column % step][column / step][16], with zeros where the padding is
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
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

}  // namespace
