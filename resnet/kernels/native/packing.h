// Images packed so that reading them takes neither conditions nor distances that the compiler does not know:
//
//   [block of 16 channels][row][column % step][column / step][16], with zeros where the padding is
#pragma once

#include "threads.h"

namespace {

constexpr int kBlock = 16;

using Buffer = ffi::Buffer<ffi::F32, 4>;

struct Images {
  explicit Images(Buffer b)
      : data(b.typed_data()), count(b.dimensions()[0]), height(b.dimensions()[1]), width(b.dimensions()[2]),
        channels(b.dimensions()[3]), step(channels) {}
  float* at(int64_t n, int64_t y, int64_t x) const { return data + ((n * height + y) * width + x) * step; }

  // Some of the channels.
  Images part(int64_t first, int64_t number) const {
    Images part = *this;
    part.data += first, part.channels = number;
    return part;
  }

  float* data;
  int64_t count, height, width, channels, step;  // step: floats from pixel to pixel
};

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

  int64_t size, stride, padding, groups;
  bool gradient;
};

// In registers: of so few floats, a call of memmove takes longer.
inline void copy_block(const float* from, float* to) {
  for (int i = 0; i < kBlock; i += kLanes) store(to + i, load(from + i));
}

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
          if (floats == kBlock) copy_block(from, out + c * kBlock);
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
