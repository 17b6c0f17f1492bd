// Convolutions of float32 images, NHWC, with square kernels, HWIO, and their gradients to the input, for XLA on the CPU.
//
// All are sums of one input value times a vector of output channels. A tile of such sums stays in registers
// until its terms are added; the kernels that it reads are packed before (packing.h), and images unless the kernel is
// 1x1. Nothing depends on the number of threads: each sum runs in an order that the shapes alone decide.
#include "groups.h"
#include "operands.h"
#include "pointwise.h"
#include "winograd.h"

namespace {

// What results whose places have the same remainders by `phases` have in common.
struct Phase {
  std::vector<Terms> terms;
  std::vector<Chunk> chunks;
  std::vector<Place> places;  // in a band, by rows
  int64_t row;                // places in a row
};

// The phases of results in bands of so many rows; `layout` is that of the packed inputs, of which kernels are packed
// for vectors of `wide` outputs.
std::vector<Phase> phases_of(const Packed& layout, const Window& window, int64_t inputs, int64_t wide, int64_t band,
                             Images out) {
  const int64_t phases = window.phases(), taps = window.size * window.size;
  const int64_t block_floats = window.span(band) * layout.row;
  std::vector<Phase> all(phases * phases);
  for (int64_t t = 0; t < taps; ++t) {
    const int64_t y = t / window.size, x = t % window.size;
    const int64_t at = layout.at(window.lag(y), window.lag(x));
    for (int64_t block = 0; block < layout.blocks; ++block) {
      all[window.phase(y) * phases + window.phase(x)].terms.push_back(
          {at + block * block_floats, (t * inputs + block * kBlock) * wide, layout.depth(block)});
    }
  }
  for (int64_t phase = 0; phase < phases * phases; ++phase) {
    Phase& own = all[phase];
    own.chunks = chunks_of(own.terms);
    own.row = std::max<int64_t>(0, ceil_div(out.width - phase % phases, phases));
    for (int64_t y = phase / phases; y < band; y += phases) {
      for (int64_t column = 0; column < own.row; ++column) {
        const int64_t x = phase % phases + column * phases;
        own.places.push_back(
            {layout.at(y / phases * window.step(), 0) + column * kBlock, out.at(0, y, x) - out.data});
      }
    }
  }
  return all;
}

// Convolution, or its gradient to the input, by packed weights, so many of each output: bands of rows are packed, and read by
// all blocks of outputs.
template <typename Sums>
void correlate(ffi::ThreadPool& pool, Images in, const float* weights, int64_t weights_of_output, int64_t inputs,
               int64_t outputs, const Window& window, Images out, const Ending* ending) {
  const int64_t phases = window.phases(), taps = window.size * window.size;
  const Packed layout(in.part(0, inputs), window, out.width);
  const int64_t row_floats = layout.blocks * layout.row * window.step();
  const int64_t band = phases * std::clamp<int64_t>(kSecondLevel / row_floats, 1, out.height);
  const int64_t bands = ceil_div(out.height, band), block_floats = window.span(band) * layout.row;
  const std::vector<Phase> all = phases_of(layout, window, weights_of_output / taps, Sums::wide, band, out);
  share(pool, out.channels / outputs * in.count * bands, [&](int64_t task) {
    const int64_t part = task / (in.count * bands), n = task / bands % in.count;
    const int64_t first = task % bands * band, last = std::min(first + band, out.height);
    const int64_t top = first / phases * window.step() - window.margin(), rows = window.span(last - first);
    const Packed packed(in.part(part * inputs, inputs), window, out.width);
    float* image = of_this_thread.floats(packed.blocks * block_floats);
    for (int64_t block = 0; block < packed.blocks; ++block) {
      packed.pack(n, block, top, rows, image + block * block_floats);
    }
    Images here = out.part(part * outputs, outputs);
    here.data = here.at(n, first, 0);
    const Ending ends = ending ? ending->from(part * outputs, here.data - out.data) : Ending{};
    for (int64_t phase = 0; phase < phases * phases; ++phase) {
      const Phase& own = all[phase];
      const int64_t own_rows = std::max<int64_t>(0, ceil_div(last - first - phase / phases, phases));
      sweep<Sums>(image, weights + part * outputs * weights_of_output, own.chunks, own.places.data(), own_rows * own.row,
                  weights_of_output, here, ending ? &ends : nullptr);
    }
  });
}

// The same by a kernel.
template <int V>
void correlate(ffi::ThreadPool& pool, Images in, Images kernel, const Window& window, Images out, const Ending* ending) {
  const int64_t taps = window.size * window.size;
  Memory memory;
  const bool few = grouped(window, kernel, [&](auto group) {
    float* weights = memory.floats(taps * group * out.channels);
    pack_groups<group>(kernel, window, out.channels, weights);
    correlate<Grouped<group>>(pool, in, weights, taps * group, kBlock, kBlock, window, out, ending);
  });
  if (few) return;
  const int64_t inputs = together(window, kernel, in.channels), outputs = together(window, kernel, out.channels);
  float* weights = memory.floats(taps * inputs * out.channels);
  pack_kernel<V>(pool, kernel, window, in, out, weights);
  correlate<Dense<V>>(pool, in, weights, taps * inputs, inputs, outputs, window, out, ending);
}

// Whichever of the three serves.
template <int V>
void convolve(ffi::ThreadPool& pool, Images in, Images kernel, const Window& window, Images out, const Ending* ending) {
  if (window.pointwise()) return pointwise<V>(pool, in, kernel, window, out, ending);
  (winograd_serves(window, in, out) ? winograd<V> : correlate<V>)(pool, in, kernel, window, out, ending);
}

// The convolution of what is read for x, or with a scale and an offset relu(scale * convolution + offset + shortcut);
// a shortcut of no images is none.
ffi::Error forward(ffi::ThreadPool pool, Buffer x, Buffer kernel, Channels x_scale, Channels x_offset, Channels scale,
                   Channels offset, Buffer shortcut, ffi::Result<Buffer> y, int64_t groups, int64_t padding,
                   bool rectifies, int64_t stride) {
  const Window window{kernel.dimensions()[0], stride, padding, groups, false};
  const auto out = y->dimensions(), added = shortcut.dimensions();
  const bool ends = scale.element_count() > 0, sum = shortcut.element_count() > 0;
  const bool joined = readable(x, x_scale, x_offset) && none_or_each(scale, offset, 1, out[3]) &&
                      (ends || !(sum || rectifies)) &&
                      (!sum || std::equal(out.begin(), out.end(), added.begin(), added.end()));
  return checked(x, kernel, *y, window, out[3], joined, [&](auto v) {
    const Ending ending{scale.typed_data(), offset.typed_data(), sum ? shortcut.typed_data() : nullptr, rectifies};
    convolve<v>(pool, images_of(x, x_scale, x_offset), Images(kernel), window, Images(*y), ends ? &ending : nullptr);
  });
}

ffi::Error input_gradient(ffi::ThreadPool pool, Buffer g, Buffer kernel, ffi::Result<Buffer> x, int64_t groups,
                          int64_t padding, int64_t stride) {
  const Window window{kernel.dimensions()[0], stride, padding, groups, true};
  return checked(*x, kernel, g, window, x->dimensions()[3], true, [&](auto v) {
    convolve<v>(pool, Images(g), Images(kernel), window, Images(*x), nullptr);
  });
}

}  // namespace

extern "C" const int32_t resnet_channels = kChannels;

XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_forward, forward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Arg<Channels>()
                                  .Arg<Channels>().Arg<Channels>().Arg<Channels>().Arg<Buffer>().Ret<Buffer>()
                                  .Attr<int64_t>("groups").Attr<int64_t>("padding").Attr<bool>("relu")
                                  .Attr<int64_t>("stride"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_input_gradient, input_gradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>()
                                  .Attr<int64_t>("groups").Attr<int64_t>("padding").Attr<int64_t>("stride"));
