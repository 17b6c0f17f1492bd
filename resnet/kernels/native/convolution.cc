// Convolutions of float32 images, NHWC, with square kernels, HWIO, and their gradients, for XLA on the CPU.
//
// All are sums of one input value times a vector of output channels. A tile of such sums stays in registers
// until its terms are added; what it reads, images (packing.h) and kernels, is packed before. Nothing depends
// on the number of threads: each sum runs in an order that the shapes alone decide.
#include <array>
#include <span>
#include <type_traits>
#include <utility>

#include "packing.h"

namespace {

using Channels = ffi::Buffer<ffi::F32, 1>;

// The channels that are computed together, of images and of results: all, or where there are several groups, of
// as many of them as fill a block, with a kernel that is zero from one group to another.
int64_t together(const Window& window, Images kernel, int64_t channels) {
  return window.groups == 1 ? channels : std::max<int64_t>(kBlock, kernel.width);
}

// The kernel as [block of V vectors of outputs][tap][input][outputs], read from its beginning to its end. The
// gradient to the input takes inputs for outputs.
template <int V>
void pack_kernel(ffi::ThreadPool& pool, Images kernel, const Window& window, Images in, Images out, float* packed) {
  const int64_t taps = kernel.count * kernel.height, wide = V * kLanes;
  const int64_t inputs = together(window, kernel, in.channels);
  share(pool, out.channels / wide * taps, [&](int64_t task) {
    const float* from = kernel.at(0, task % taps, 0);
    float* to = packed + task * inputs * wide;
    const int64_t first = task / taps * wide, group = kernel.width;
    for (int64_t i = 0; i < inputs; ++i, to += wide) {
      if (window.groups > 1) {
        const int64_t input = first / inputs * inputs + i;
        for (int64_t o = 0; o < wide; ++o) {
          const int64_t output = first + o, row = (window.gradient ? output : input) % group;
          const float weight = from[row * kernel.channels + (window.gradient ? input : output)];
          to[o] = input / group == output / group ? weight : 0;
        }
      } else if (window.gradient) {
        for (int64_t o = 0; o < wide; ++o) to[o] = from[(first + o) * inputs + i];
      } else {
        std::copy_n(from + i * out.channels + first, wide, to);
      }
    }
  });
}

// What becomes of a sum before it is written: sum * scale + offset, plus the shortcut unless that is null, and zero
// where that is negative if `relu`.
struct Ending {
  // The same, from an output channel and from a place in the result on.
  Ending from(int64_t channel, int64_t place) const {
    return {scale + channel, offset + channel, shortcut ? shortcut + place : nullptr, relu};
  }

  Vector of(Vector sum, int64_t channel, int64_t place) const {
    sum = sum * load(scale + channel) + load(offset + channel);
    if (shortcut) sum += load(shortcut + place);
    return relu ? sum < Vector{} ? Vector{} : sum : sum;  // NaN stays
  }

  const float *scale, *offset, *shortcut;
  bool relu;
};

// Terms of a sum: of one tap, channels that lie side by side in the packed image, up to kBlock of them.
struct Terms {
  int64_t pixel, weights, channels;  // where they begin in what is packed, and their number
};
using Chunk = std::span<const Terms>;

// The terms in chunks of about kTerms. A sum within a chunk rounds as a short one, and the kernels of a chunk
// stay in a first-level cache while all tiles of a band read them.
std::vector<Chunk> chunks_of(const std::vector<Terms>& terms) {
  std::vector<Chunk> chunks;
  int64_t count = 0;
  size_t first = 0;
  for (size_t i = 0; i < terms.size(); ++i) {
    if (count >= kTerms) chunks.emplace_back(&terms[first], i - first), first = i, count = 0;
    count += terms[i].channels;
  }
  chunks.emplace_back(terms.data() + first, terms.size() - first);
  return chunks;
}

// A result: where what it reads begins in the packed image, and where it is written.
struct Place {
  int64_t pixel, result;
};

// Writes the sums of V vectors of outputs at P places: V loads of the kernel serve P * V products, each of which
// takes its other factor, one float for all lanes, from memory.
template <int P, int V>
void tile(const float* image, const float* kernel, const std::vector<Chunk>& chunks, const Place* places, float* out,
          const Ending* ending) {
  const float* pixel[P];
  for (int p = 0; p < P; ++p) pixel[p] = image + places[p].pixel;
  for (const Chunk& chunk : chunks) {
    Vector sum[P][V] = {};
    for (const Terms& terms : chunk) {
      const float* weights = kernel + terms.weights;
      for (int64_t i = terms.pixel; i < terms.pixel + terms.channels; ++i, weights += V * kLanes) {
        Vector outputs[V];
        for (int v = 0; v < V; ++v) outputs[v] = load(weights + v * kLanes);
#pragma GCC unroll 32
        for (int p = 0; p < P; ++p) {
          for (int v = 0; v < V; ++v) sum[p][v] += outputs[v] * pixel[p][i];
        }
      }
    }
    const bool begun = &chunk != &chunks.front(), ends = ending && &chunk == &chunks.back();
#pragma GCC unroll 32
    for (int p = 0; p < P; ++p) {
      for (int v = 0; v < V; ++v) {
        const int64_t at = places[p].result + v * kLanes;
        const Vector value = begun ? load(out + at) + sum[p][v] : sum[p][v];
        store(out + at, ends ? ending->of(value, v * kLanes, at) : value);
      }
    }
  }
}

template <int V>
constexpr auto tiles = []<size_t... p>(std::index_sequence<p...>) {
  return std::array{&tile<p + 1, V>...};
}(std::make_index_sequence<kSums / V>{});

// The sums that `chunks` add up, for all outputs, at `count` places.
template <int V>
void sweep(const float* image, const float* weights, const std::vector<Chunk>& chunks, const Place* places,
           int64_t count, int64_t weights_of_output, Images out, const Ending* ending) {
  const int64_t parts = ceil_div(count, kSums / V);  // as equal as can be
  for (int64_t o = 0; o < out.channels; o += V * kLanes) {
    const Ending here = ending ? ending->from(o, o) : Ending{};
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = part * count / parts, end = (part + 1) * count / parts;
      tiles<V>[end - begin - 1](image, weights + o * weights_of_output, chunks, places + begin, out.data + o,
                                ending ? &here : nullptr);
    }
  }
}

// Convolution with a kernel of one pixel: images are read as they are, as many pixels at once as half a second-level
// cache holds with their results.
template <int V>
void multiply(ffi::ThreadPool& pool, Images in, Images kernel, Window window, Images out, const Ending* ending) {
  Memory memory;
  float* weights = memory.floats(in.channels * out.channels);
  pack_kernel<V>(pool, kernel, window, in, out, weights);
  std::vector<Terms> terms;
  for (int64_t c = 0; c < in.channels; c += kTerms) {
    terms.push_back({c, c * V * kLanes, std::min(kTerms, in.channels - c)});
  }
  const std::vector<Chunk> chunks = chunks_of(terms);
  std::vector<Place> places;
  places.reserve(out.count * out.height * out.width);
  for (int64_t n = 0; n < out.count; ++n) {
    for (int64_t y = 0; y < out.height; ++y) {
      for (int64_t x = 0; x < out.width; ++x) {
        places.push_back({in.at(n, y * window.stride, x * window.stride) - in.data, out.at(n, y, x) - out.data});
      }
    }
  }
  const int64_t count = places.size();
  const int64_t pixels = std::max<int64_t>(24, kSecondLevel / 2 / (in.channels + out.channels));
  const int64_t bands = std::max(ceil_div(count, pixels), std::min<int64_t>(count, 16));
  share(pool, bands, [&](int64_t band) {
    const int64_t begin = band * count / bands, end = (band + 1) * count / bands;
    sweep<V>(in.data, weights, chunks, &places[begin], end - begin, in.channels, out, ending);
  });
}

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
void correlate(ffi::ThreadPool& pool, Images in, Images kernel, Window window, Images out, const Ending* ending) {
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

// Whichever of the two serves; a gradient of stride 2 has results that no kernel of one pixel meets.
template <int V>
void convolve(ffi::ThreadPool& pool, Images in, Images kernel, Window window, Images out, const Ending* ending) {
  const bool pointwise = window.size == 1 && !window.padding && window.groups == 1;
  (pointwise && (window.stride == 1 || !window.gradient) ? multiply<V> : correlate<V>)(pool, in, kernel, window, out, ending);
}

// sums[D inputs][V vectors] += pixels[result][D inputs] * gradient[result][V vectors], over rows of results.
template <int D, int V>
void add_products(const float* pixels, int64_t pixels_row, const float* gradient, int64_t gradient_step, int64_t rows,
                  int64_t columns, float* sums, int64_t sums_step) {
  Vector sum[D][V] = {};
  for (int64_t row = 0; row < rows; ++row) {
    const float* pixel = pixels + row * pixels_row;
    for (int64_t column = 0; column < columns; ++column, gradient += gradient_step, pixel += kBlock) {
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
      float* to = sums + d * sums_step + v * kLanes;
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
  const int64_t inputs = together(window, kernel, in.channels);
  const int64_t outputs = together(window, kernel, gradient.channels);
  const int64_t blocks = ceil_div(in.channels, kBlock), taps = window.size * window.size;
  const int64_t elements = taps * in.channels * outputs;
  const int64_t parts = std::min<int64_t>(in.count, ceil_div(16, blocks));
  Memory memory;
  float* sums = memory.floats(parts * elements);
  std::fill_n(sums, parts * elements, 0.0f);
  const Packed packed(in, window, gradient.width);
  const int64_t band =
      std::clamp<int64_t>(kFirstLevel / (packed.row * window.step()), 1, gradient.height);
  share(pool, parts * blocks, [&](int64_t task) {
    const int64_t part = task / blocks, block = task % blocks;
    const int64_t depth = packed.depth(block), pieces = ceil_div(depth, kSums / V);
    const Images own = gradient.part(block * kBlock / inputs * outputs, outputs);
    float* image = of_this_thread.floats(window.span(band) * packed.row);
    for (int64_t n = part * in.count / parts; n < (part + 1) * in.count / parts; ++n) {
      for (int64_t first = 0; first < gradient.height; first += band) {
        const int64_t rows = std::min(band, gradient.height - first);
        packed.pack(n, block, first * window.stride - window.padding, window.span(rows), image);
        for (int64_t o = 0; o < outputs; o += V * kLanes) {
          for (int64_t t = 0; t < taps; ++t) {
            const float* pixels = image + packed.at(t / window.size, t % window.size);
            float* to = sums + part * elements + (t * in.channels + block * kBlock) * outputs + o;
            for (int64_t piece = 0; piece < pieces; ++piece) {
              const int64_t d = piece * depth / pieces, end = (piece + 1) * depth / pieces;
              products<V>[end - d - 1](pixels + d, window.stride * packed.row, own.at(n, first, 0) + o, own.step, rows,
                                       own.width, to + d * outputs, outputs);
            }
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

ffi::Error forward(ffi::ThreadPool pool, Buffer x, Buffer kernel, ffi::Result<Buffer> y, int64_t groups, int64_t padding,
                   int64_t stride) {
  const Window window{kernel.dimensions()[0], stride, padding, groups, false};
  return checked(x, kernel, *y, window, y->dimensions()[3], [&](auto v) {
    convolve<v>(pool, Images(x), Images(kernel), window, Images(*y), nullptr);
  });
}

// relu(scale * convolution + offset + shortcut); a shortcut of no images is none.
ffi::Error affine(ffi::ThreadPool pool, Buffer x, Buffer kernel, Channels scale, Channels offset, Buffer shortcut,
                  ffi::Result<Buffer> y, int64_t groups, int64_t padding, bool relu, int64_t stride) {
  const Window window{kernel.dimensions()[0], stride, padding, groups, false};
  const auto out = y->dimensions(), added = shortcut.dimensions();
  const bool sum = shortcut.element_count() > 0;
  const int64_t channels = out[3];
  if (scale.element_count() != static_cast<size_t>(channels) || offset.element_count() != scale.element_count() ||
      (sum && !std::equal(out.begin(), out.end(), added.begin(), added.end()))) {
    return ffi::Error::InvalidArgument("no native convolution gives " + text(out) + " with a scale " +
                                       text(scale.dimensions()) + ", an offset " + text(offset.dimensions()) +
                                       " and a shortcut " + text(added));
  }
  return checked(x, kernel, *y, window, channels, [&](auto v) {
    const Ending ending{scale.typed_data(), offset.typed_data(), sum ? shortcut.typed_data() : nullptr, relu};
    convolve<v>(pool, Images(x), Images(kernel), window, Images(*y), &ending);
  });
}

ffi::Error input_gradient(ffi::ThreadPool pool, Buffer g, Buffer kernel, ffi::Result<Buffer> x, int64_t groups,
                          int64_t padding, int64_t stride) {
  const Window window{kernel.dimensions()[0], stride, padding, groups, true};
  return checked(*x, kernel, g, window, x->dimensions()[3], [&](auto v) {
    convolve<v>(pool, Images(g), Images(kernel), window, Images(*x), nullptr);
  });
}

ffi::Error kernel_gradient(ffi::ThreadPool pool, Buffer x, Buffer g, ffi::Result<Buffer> kernel, int64_t groups,
                           int64_t padding, int64_t stride) {
  const Window window{kernel->dimensions()[0], stride, padding, groups, false};
  return checked(x, *kernel, g, window, g.dimensions()[3], [&](auto v) {
    sum_products<v>(pool, Images(x), Images(g), window, Images(*kernel));
  });
}

auto signature() {
  return ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Ret<Buffer>()
      .Attr<int64_t>("groups").Attr<int64_t>("padding").Attr<int64_t>("stride");
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_forward, forward, signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_affine, affine,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Arg<Channels>()
                                  .Arg<Channels>().Arg<Buffer>().Ret<Buffer>().Attr<int64_t>("groups")
                                  .Attr<int64_t>("padding").Attr<bool>("relu").Attr<int64_t>("stride"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_input_gradient, input_gradient, signature());
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_kernel_gradient, kernel_gradient, signature());
