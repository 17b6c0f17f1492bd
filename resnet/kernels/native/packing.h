// Images and kernels packed so that reading them takes neither conditions nor distances that the compiler does not
// know: images as
//
//   [block of 16 channels][row][column % step][column / step][16], with zeros where the padding is
//
// and kernels as [block of V vectors of outputs][tap][input][outputs].
#pragma once

#include "threads.h"

namespace {

constexpr int kBlock = 16;
constexpr int kChannels = std::max(8, kLanes);  // that results have multiples of

using Buffer = ffi::Buffer<ffi::F32, 4>;

struct Images {
  explicit Images(Buffer b)
      : data(b.typed_data()), count(b.dimensions()[0]), height(b.dimensions()[1]), width(b.dimensions()[2]),
        channels(b.dimensions()[3]), step(channels) {}
  float* at(int64_t n, int64_t y, int64_t x) const { return data + ((n * height + y) * width + x) * step; }
  bool holds(int64_t y, int64_t x) const { return 0 <= y && y < height && 0 <= x && x < width; }

  // Some of the channels.
  Images part(int64_t first, int64_t number) const {
    Images part = *this;
    part.data += first, part.channels = number;
    if (scale) part.scale += first, part.offset += first;
    return part;
  }

  // The same, read by the scale and the offset of image n.
  Images as(int64_t n) const {
    Images as = *this;
    if (scale) as.scale += n / alike * step, as.offset += n / alike * step;
    return as;
  }

  // What stands for channels of a pixel: their values, or relu(value * scale + offset).
  Vector read(const float* pixel, int64_t channel) const {
    const Vector value = load(pixel + channel);
    return scale ? relu(value * load(scale + channel) + load(offset + channel)) : value;
  }

  float* data;
  int64_t count, height, width, channels, step;  // step: floats from pixel to pixel
  const float *scale = nullptr, *offset = nullptr;
  int64_t alike = 0;  // images in a row that share a scale and an offset
};

// What the results of a convolution, or of its gradient to the input, read along either side of an image:
// result `phase + phases * r` takes value `step * r + lag(tap)` of the packed side for each tap of its phase.
// The packed side begins `margin` before the image, and r results in a row meet `step * (r - 1) + reach`.
struct Window {
  bool pointwise() const { return size == 1 && groups == 1; }
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
    const Images own = images.as(n);
    for (int64_t y = top; y < top + rows; ++y) {
      for (int64_t phase = 0; phase < step; ++phase, out += columns * kBlock) {
        const int64_t left = window.margin() - phase;  // where column c holds pixel c * step - left
        const bool inside = 0 <= y && y < images.height;
        const int64_t first = inside ? std::min(columns, ceil_div(std::max<int64_t>(left, 0), step)) : columns;
        const int64_t last = std::clamp(ceil_div(images.width + left, step), first, columns);
        std::fill(out, out + first * kBlock, 0.0f);
        for (int64_t c = first; c < last; ++c) {
          const float* from = images.at(n, y, c * step - left);
          float* to = out + c * kBlock;
          if (floats % kLanes == 0) {  // In registers: of so few floats, a call of memmove takes longer.
            for (int64_t i = 0; i < floats; i += kLanes) store(to + i, own.read(from, block * kBlock + i));
          } else {
            std::copy_n(from + block * kBlock, floats, to);
          }
        }
        std::fill(out + last * kBlock, out + columns * kBlock, 0.0f);
      }
    }
  }

  Images images;
  Window window;
  int64_t columns, row, blocks;
};

// The pixels of images in tiles of side x side, image by image, and the tiles in bands of about `most`: in multiples of
// `unit`, and as many bands for one thread as for another.
struct Tiles {
  Tiles(Images images, int64_t side, int64_t unit, int64_t most, int64_t threads)
      : side(side), rows(ceil_div(images.height, side)), columns(ceil_div(images.width, side)),
        count(images.count * rows * columns), unit(unit), units(ceil_div(count, unit)),
        bands(ceil_div(ceil_div(count, most), threads) * threads), of_band(ceil_div(units, bands) * unit) {}

  int64_t begin(int64_t band) const { return std::min(count, band * units / bands * unit); }
  int64_t image(int64_t tile) const { return tile / columns / rows; }
  int64_t top(int64_t tile) const { return tile / columns % rows * side; }
  int64_t left(int64_t tile) const { return tile % columns * side; }

  int64_t side, rows, columns, count, unit, units, bands, of_band;
};

// What tiles of images have at some points, or pixels at one: [point][block of channels][tile][channels]. Points lie
// further apart than they need, for a cache not to keep all of them in one place.
struct Points {
  Points(int64_t tiles, int64_t channels, int64_t block)
      : tiles(tiles), channels(channels), block(block), step(tiles * channels + kBlock) {}

  float* at(int64_t point, int64_t tile, int64_t channel) const {
    return data + point * step + (channel / block * tiles + tile) * block + channel % block;
  }

  int64_t tiles, channels, block, step;
  float* data;
};

// The channels that are computed together, of images and of results: all, or where there are several groups, of
// as many of them as fill a block, with a kernel that is zero from one group to another.
int64_t together(const Window& window, Images kernel, int64_t channels) {
  return window.groups == 1 ? channels : std::max<int64_t>(kBlock, kernel.width);
}

// One tap of the kernel for a block of V vectors of outputs, from the output `first` on, as [input][outputs]. The
// gradient to the input takes inputs for outputs.
template <int V>
void pack_tap(Images kernel, const Window& window, Images in, int64_t tap, int64_t first, float* to) {
  constexpr int64_t wide = V * kLanes;
  const float* from = kernel.at(0, tap, 0);
  const int64_t inputs = together(window, kernel, in.channels), group = kernel.width;
  for (int64_t i = 0; i < inputs; ++i, to += wide) {
    if (window.groups > 1) {
      const int64_t input = first / inputs * inputs + i;
      for (int64_t o = 0; o < wide; ++o) {
        const int64_t output = first + o, row = (window.gradient ? output : input) % group;
        const float weight = from[row * kernel.channels + (window.gradient ? input : output)];
        to[o] = input / group == output / group ? weight : 0;
      }
    } else if (window.gradient) {
      for (int64_t o = 0; o < wide; ++o) to[o] = from[(first + o) * kernel.step + i];
    } else {
      for (int64_t o = 0; o < wide; o += kLanes) store(to + o, load(from + i * kernel.step + first + o));
    }
  }
}

template <int V>
void pack_kernel(ffi::ThreadPool& pool, Images kernel, const Window& window, Images in, Images out, float* packed) {
  const int64_t taps = kernel.count * kernel.height, wide = V * kLanes;
  const int64_t floats = together(window, kernel, in.channels) * wide;
  share(pool, out.channels / wide * taps, [&](int64_t task) {
    pack_tap<V>(kernel, window, in, task % taps, task / taps * wide, packed + task * floats);
  });
}

}  // namespace
