// Convolutions of float32 images, NHWC, with square kernels, HWIO, and their gradients, for XLA on the CPU.
//
// All are sums of one input value times a vector of output channels. A tile of such sums stays in registers
// until its terms are added; the kernels that it reads are packed before (packing.h), and images unless the kernel is
// 1x1. Nothing depends on the number of threads: each sum runs in an order that the shapes alone decide.
#include <type_traits>

#include "pointwise.h"
#include "winograd.h"

namespace {

using Channels = ffi::Buffer<ffi::F32, 1>;

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

// Convolution, or its gradient to the input: bands of rows are packed, and read by all blocks of outputs.
template <int V>
void correlate(ffi::ThreadPool& pool, Images in, Images kernel, const Window& window, Images out, const Ending* ending) {
  const int64_t phases = window.phases(), taps = window.size * window.size;
  const int64_t inputs = together(window, kernel, in.channels), outputs = together(window, kernel, out.channels);
  Memory kernel_memory;
  float* weights = kernel_memory.floats(taps * inputs * out.channels);
  pack_kernel<V>(pool, kernel, window, in, out, weights);

  const Packed layout(in.part(0, inputs), window, out.width);
  const int64_t row_floats = layout.blocks * layout.row * window.step();
  const int64_t band = phases * std::clamp<int64_t>(kSecondLevel / row_floats, 1, out.height);
  const int64_t bands = ceil_div(out.height, band), block_floats = window.span(band) * layout.row;
  const std::vector<Phase> all = phases_of(layout, window, inputs, V * kLanes, band, out);
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
      sweep<V>(image, weights + part * outputs * taps * inputs, own.chunks, own.places.data(), own_rows * own.row,
               taps * inputs, here, ending ? &ends : nullptr);
    }
  });
}

// Whichever of the three serves.
template <int V>
void convolve(ffi::ThreadPool& pool, Images in, Images kernel, const Window& window, Images out, const Ending* ending) {
  if (window.pointwise()) return pointwise<V>(pool, in, kernel, window, out, ending);
  (winograd_serves(window, in, out) ? winograd<V> : correlate<V>)(pool, in, kernel, window, out, ending);
}

// Gradient to the kernel: a task is a block of inputs and, where there are few blocks, a part of the batch.
template <int V>
void sum_products(ffi::ThreadPool& pool, Images in, Images gradient, Window window, Images kernel) {
  if (winograd_serves(window, in, gradient)) return winograd_kernel<V>(pool, in, gradient, window, kernel);
  if (pointwise_kernel_serves(window, in, gradient)) return pointwise_kernel<V>(pool, in, gradient, window, kernel);
  const int64_t inputs = together(window, kernel, in.channels);
  const int64_t outputs = together(window, kernel, gradient.channels);
  const int64_t blocks = ceil_div(in.channels, kBlock), taps = window.size * window.size;
  const int64_t elements = taps * in.channels * outputs, wide = V * kLanes;
  const int64_t parts = std::min<int64_t>(in.count, ceil_div(16, blocks));
  Memory memory;
  float* sums = memory.floats(parts * elements);
  std::fill_n(sums, parts * elements, 0.0f);
  const Packed packed(in, window, gradient.width);
  const int64_t band =
      std::clamp<int64_t>(kFirstLevel / 2 / (packed.row * window.step()), 1, gradient.height);
  share(pool, parts * blocks, [&](int64_t task) {
    const int64_t part = task / blocks, block = task % blocks;
    const int64_t depth = packed.depth(block);
    const Images own = gradient.part(block * kBlock / inputs * outputs, outputs);
    float* image = of_this_thread.floats(window.span(band) * packed.row + band * own.width * wide);
    float* gradients = image + window.span(band) * packed.row;
    for (int64_t n = part * in.count / parts; n < (part + 1) * in.count / parts; ++n) {
      for (int64_t first = 0; first < gradient.height; first += band) {
        const int64_t rows = std::min(band, gradient.height - first);
        packed.pack(n, block, first * window.stride - window.padding, window.span(rows), image);
        for (int64_t o = 0; o < outputs; o += wide) {
          const float* from = own.at(n, first, 0) + o;
          const bool packs = taps > 1 && own.step > wide;  // Read for each tap, they are faster side by side.
          if (packs) {
            for (int64_t i = 0; i < rows * own.width * wide; i += kLanes) {
              store(gradients + i, load(from + i / wide * own.step + i % wide));
            }
            from = gradients;
          }
          for (int64_t t = 0; t < taps; ++t) {
            const float* pixels = image + packed.at(t / window.size, t % window.size);
            float* to = sums + part * elements + (t * in.channels + block * kBlock) * outputs + o;
            add_block<V>(depth, pixels, window.stride * packed.row, from, packs ? wide : own.step, rows, own.width, to,
                         outputs, true);
          }
        }
      }
    }
  });
  // Of an input, the products with the outputs of its own group.
  const int64_t number = gradient.channels / window.groups;
  for (int64_t i = 0; i < taps * in.channels; ++i) {
    const int64_t input = i % in.channels, first = input / kernel.width * number;
    const float* from = sums + i * outputs + first % outputs;
    float* to = kernel.at(0, i / in.channels, input % kernel.width) + first;
    std::copy_n(from, number, to);
    for (int64_t part = 1; part < parts; ++part) {
      for (int64_t o = 0; o < number; ++o) to[o] += from[part * elements + o];
    }
  }
}

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
// the others, or an error where they do not fit. The memory that is read and written follows from their shapes,
// so a wrong one must not pass. `blocked` are the channels of the result that come in blocks. Two vectors of
// outputs in a tile load half as often as one; where 32 outputs are no multiple, 16 are.
template <typename F>
ffi::Error checked(Buffer x, Buffer kernel, Buffer y, const Window& window, int64_t blocked, const F& f) {
  const auto in = x.dimensions(), weights = kernel.dimensions(), out = y.dimensions();
  const bool filled = x.element_count() > 0 && kernel.element_count() > 0 && y.element_count() > 0;
  const bool possible = 0 < window.stride && window.stride <= window.size + std::max(in[1], in[2]) &&
                        0 <= window.padding && window.padding < window.size && 0 < window.groups;
  if (!filled || !possible || weights[0] != weights[1] || in[0] != out[0] || in[3] != window.groups * weights[2] ||
      out[3] != weights[3] || !meets(in[1], out[1], window) || !meets(in[2], out[2], window) || blocked % kBlock ||
      (window.groups > 1 && !fills(weights[2], in[3], out[3]))) {
    return ffi::Error::InvalidArgument(
        "no native convolution takes " + text(in) + " by a kernel " + text(weights) + " to " + text(out) +
        " with stride " + std::to_string(window.stride) + ", padding " + std::to_string(window.padding) + " and " +
        std::to_string(window.groups) + " groups");
  }
  return guarded([&] {
    constexpr int narrow = kBlock / kLanes, wide = kLanes == kBlock ? 2 : narrow;
    together(window, Images(kernel), blocked) % (wide * kLanes) ? f(std::integral_constant<int, narrow>())
                                                                : f(std::integral_constant<int, wide>());
    return ffi::Error::Success();
  });
}

// Whether there is none, or one for each channel.
bool one_each(Channels scale, Channels offset, int64_t channels) {
  return scale.element_count() == offset.element_count() &&
         (scale.element_count() == 0 || scale.dimensions()[0] == channels);
}

// What is read for x: itself, or relu(x * scale + offset) where there are values for whole blocks of channels.
Images images_of(Buffer x, Channels scale, Channels offset) {
  Images images(x);
  if (scale.element_count() > 0) images.scale = scale.typed_data(), images.offset = offset.typed_data();
  return images;
}
bool readable(Buffer x, Channels scale, Channels offset) {
  return one_each(scale, offset, x.dimensions()[3]) && (scale.element_count() == 0 || x.dimensions()[3] % kBlock == 0);
}

// The convolution of what is read for x, or with a scale and an offset relu(scale * convolution + offset + shortcut);
// a shortcut of no images is none.
ffi::Error forward(ffi::ThreadPool pool, Buffer x, Buffer kernel, Channels x_scale, Channels x_offset, Channels scale,
                   Channels offset, Buffer shortcut, ffi::Result<Buffer> y, int64_t groups, int64_t padding,
                   bool rectifies, int64_t stride) {
  const Window window{kernel.dimensions()[0], stride, padding, groups, false};
  const auto out = y->dimensions(), added = shortcut.dimensions();
  const bool ends = scale.element_count() > 0, sum = shortcut.element_count() > 0;
  if (!readable(x, x_scale, x_offset) || !one_each(scale, offset, out[3]) || (!ends && (sum || rectifies)) ||
      (sum && !std::equal(out.begin(), out.end(), added.begin(), added.end()))) {
    return ffi::Error::InvalidArgument("no native convolution of " + text(x.dimensions()) + ", read with a scale " +
                                       text(x_scale.dimensions()) + " and an offset " + text(x_offset.dimensions()) +
                                       ", gives " + text(out) + " with a scale " + text(scale.dimensions()) +
                                       ", an offset " + text(offset.dimensions()) + " and a shortcut " + text(added));
  }
  return checked(x, kernel, *y, window, out[3], [&](auto v) {
    const Ending ending{scale.typed_data(), offset.typed_data(), sum ? shortcut.typed_data() : nullptr, rectifies};
    convolve<v>(pool, images_of(x, x_scale, x_offset), Images(kernel), window, Images(*y), ends ? &ending : nullptr);
  });
}

ffi::Error input_gradient(ffi::ThreadPool pool, Buffer g, Buffer kernel, ffi::Result<Buffer> x, int64_t groups,
                          int64_t padding, int64_t stride) {
  const Window window{kernel.dimensions()[0], stride, padding, groups, true};
  return checked(*x, kernel, g, window, x->dimensions()[3], [&](auto v) {
    convolve<v>(pool, Images(g), Images(kernel), window, Images(*x), nullptr);
  });
}

ffi::Error kernel_gradient(ffi::ThreadPool pool, Buffer x, Buffer g, Channels scale, Channels offset,
                           ffi::Result<Buffer> kernel, int64_t groups, int64_t padding, int64_t stride) {
  const Window window{kernel->dimensions()[0], stride, padding, groups, false};
  if (!readable(x, scale, offset)) {
    return ffi::Error::InvalidArgument("no native gradient to a kernel reads " + text(x.dimensions()) +
                                       " with a scale " + text(scale.dimensions()) + " and an offset " +
                                       text(offset.dimensions()));
  }
  return checked(x, *kernel, g, window, g.dimensions()[3], [&](auto v) {
    sum_products<v>(pool, images_of(x, scale, offset), Images(g), window, Images(*kernel));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_forward, forward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Arg<Channels>()
                                  .Arg<Channels>().Arg<Channels>().Arg<Channels>().Arg<Buffer>().Ret<Buffer>()
                                  .Attr<int64_t>("groups").Attr<int64_t>("padding").Attr<bool>("relu")
                                  .Attr<int64_t>("stride"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_input_gradient, input_gradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>()
                                  .Attr<int64_t>("groups").Attr<int64_t>("padding").Attr<int64_t>("stride"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_kernel_gradient, kernel_gradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Arg<Channels>()
                                  .Arg<Channels>().Ret<Buffer>().Attr<int64_t>("groups").Attr<int64_t>("padding")
                                  .Attr<int64_t>("stride"));
