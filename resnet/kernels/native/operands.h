// What XLA hands to a convolution or one of its gradients, checked before anything is read or written.
#pragma once

#include <type_traits>

#include "packing.h"

namespace {

// Values of channels that all images share, or as many rows of them as there are equal parts of the images.
using Channels = ffi::Buffer<ffi::F32, 2>;

// Whether the window takes x to y along one side.
bool meets(int64_t x, int64_t y, const Window& window) {
  const int64_t free = x + 2 * window.padding - window.size;
  return free >= 0 && y == free / window.stride + 1;
}

// Whether channels in groups fill blocks: as many outputs as inputs in each, and whole blocks of groups, or groups
// of whole blocks.
bool fills(int64_t group, int64_t inputs, int64_t outputs) {
  return inputs == outputs && inputs % std::max<int64_t>(group, kBlock) == 0 &&
         (group % kBlock == 0 || kBlock % group == 0);
}

// f(vectors in a tile) for images x, their kernel and their convolution y, whichever of these is computed from
// the others, or an error where they do not fit, or what is `joined` to them does not. The memory that is read and
// written follows from their shapes, so a wrong one must not pass. `blocked` are the channels of the result, which come
// in multiples of kChannels. Tiles of twice as many outputs load half as often, where they divide them.
template <typename F>
ffi::Error checked(Buffer x, Buffer kernel, Buffer y, const Window& window, int64_t blocked, bool joined, const F& f) {
  const auto in = x.dimensions(), weights = kernel.dimensions(), out = y.dimensions();
  const bool filled = x.element_count() > 0 && kernel.element_count() > 0 && y.element_count() > 0;
  const bool possible = 0 < window.stride && window.stride <= window.size + std::max(in[1], in[2]) &&
                        0 <= window.padding && window.padding < window.size && 0 < window.groups;
  if (!joined || !filled || !possible || weights[0] != weights[1] || in[0] != out[0] || out[3] != weights[3] ||
      in[3] != window.groups * weights[2] || !meets(in[1], out[1], window) || !meets(in[2], out[2], window) ||
      blocked % kChannels || (window.groups > 1 && !fills(weights[2], in[3], out[3]))) {
    return ffi::Error::InvalidArgument(
        "no native convolution takes " + text(in) + " by a kernel " + text(weights) + " to " + text(out) +
        " with stride " + std::to_string(window.stride) + ", padding " + std::to_string(window.padding) + " and " +
        std::to_string(window.groups) + " groups" + (joined ? "" : ", joined to arrays of other shapes"));
  }
  return guarded([&] {
    constexpr int narrow = kChannels / kLanes, wide = 2 * narrow;
    together(window, Images(kernel), blocked) % (wide * kLanes) ? f(std::integral_constant<int, narrow>())
                                                                : f(std::integral_constant<int, wide>());
    return ffi::Error::Success();
  });
}

// Whether there is one for each channel, of all images or of each of some equal parts.
bool one_each(Channels given, int64_t images, int64_t channels) {
  const auto shape = given.dimensions();
  return shape[0] > 0 && images % shape[0] == 0 && shape[1] == channels;
}

// Whether there is none, or one for each channel.
bool none_or_each(Channels scale, Channels offset, int64_t images, int64_t channels) {
  const auto first = scale.dimensions(), second = offset.dimensions();
  return std::equal(first.begin(), first.end(), second.begin()) &&
         (scale.element_count() == 0 || one_each(scale, images, channels));
}

// What is read for x: itself, or relu(x * scale + offset) where there are values for whole vectors of channels.
Images images_of(Buffer x, Channels scale, Channels offset) {
  Images images(x);
  if (scale.element_count() > 0) {
    images.scale = scale.typed_data(), images.offset = offset.typed_data();
    images.alike = images.count / scale.dimensions()[0];
  }
  return images;
}
bool readable(Buffer x, Channels scale, Channels offset) {
  const int64_t images = x.dimensions()[0], channels = x.dimensions()[3];
  return none_or_each(scale, offset, images, channels) && (scale.element_count() == 0 || channels % kChannels == 0);
}

}  // namespace
