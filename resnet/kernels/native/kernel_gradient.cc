// The gradients to the kernels of convolutions: for each tap, products of values and of gradients to results, summed over
// all places of all images. Compiled beside convolution.cc, on another processor where there is one.
#include "groups.h"
#include "operands.h"
#include "winograd.h"

namespace {

// The inputs that rows of results read: the first, and the floats from row to row and from result to result.
struct Grid {
  const float* first;
  int64_t row, step;
};

// sums[D inputs][V vectors] = pixels[result][D inputs] * gradient[result][V vectors], over rows of results, added to what
// is there if they are begun.
template <int D, int V>
void add_products(Grid pixels, const float* gradient, int64_t gradient_step, int64_t rows, int64_t columns, float* sums,
                  int64_t sums_step, bool begun) {
  Vector sum[D][V] = {};
  for (int64_t row = 0; row < rows; ++row) {
    const float* pixel = pixels.first + row * pixels.row;
    for (int64_t column = 0; column < columns; ++column, gradient += gradient_step, pixel += pixels.step) {
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
      store(to, begun ? load(to) + sum[d][v] : sum[d][v]);
    }
  }
}

template <int V>
constexpr auto products = []<size_t... d>(std::index_sequence<d...>) {
  return std::array{&add_products<d + 1, V>...};
}(std::make_index_sequence<kSums / V>{});

// The same for any number of inputs.
template <int V>
void add_block(int64_t depth, Grid pixels, const float* gradient, int64_t gradient_step, int64_t rows, int64_t columns,
               float* sums, int64_t sums_step, bool begun) {
  const int64_t pieces = ceil_div(depth, kSums / V);
  for (int64_t piece = 0; piece < pieces; ++piece) {
    const int64_t d = piece * depth / pieces, end = (piece + 1) * depth / pieces;
    products<V>[end - d - 1]({pixels.first + d, pixels.row, pixels.step}, gradient, gradient_step, rows, columns,
                             sums + d * sums_step, sums_step, begun);
  }
}

// The sum of equally many elements of each part.
void add_parts(const float* sums, int64_t parts, int64_t elements, float* to) {
  std::copy_n(sums, elements, to);
  for (int64_t part = 1; part < parts; ++part) {
    for (int64_t i = 0; i < elements; ++i) to[i] += sums[part * elements + i];
  }
}

// How many parts of a batch have sums of their own, of so many elements; 1 where no cache would hold them.
int64_t parts_of(int64_t elements) {
  return elements > kThirdLevel / 4 ? 1 : std::clamp<int64_t>(kThirdLevel / 2 / elements, 4, 16);
}

// Products of values and gradients at so many points of all tiles: sums[part of the tiles][point][input][output]. A thread
// packs the tiles of a part, take(tile, values, gradients, its place in these), as many as caches hold beside the sums, and
// adds their products. What it reads, no other has packed: processors need not share a cache.
template <int V, typename Take>
void add_apart(ffi::ThreadPool& pool, int64_t tiles, int64_t points, int64_t inputs, int64_t outputs, int64_t parts,
               float* sums, const Take& take) {
  constexpr int64_t wide = V * kLanes;
  const int64_t elements = points * inputs * outputs;
  const int64_t most = std::min(2 * kTerms, 2 * kSecondLevel / (points * (inputs + outputs)));
  share(pool, parts, [&](int64_t part) {
    Points values(most, inputs, kBlock), gradients(most, outputs, wide);
    values.data = of_this_thread.floats(points * (values.step + gradients.step));
    gradients.data = values.data + points * values.step;
    float* own = sums + part * elements;
    const int64_t begin = part * tiles / parts, end = (part + 1) * tiles / parts;
    if (begin == end) std::fill_n(own, elements, 0.0f);
    for (int64_t first = begin; first < end; first += most) {
      const int64_t count = std::min(most, end - first);
      for (int64_t i = 0; i < count; ++i) take(first + i, values, gradients, i);
      for (int64_t point = 0; point < points; ++point) {
        for (int64_t o = 0; o < outputs; o += wide) {
          for (int64_t i = 0; i < inputs; i += kBlock) {
            add_block<V>(kBlock, {values.at(point, 0, i), 0, kBlock}, gradients.at(point, 0, o), wide, 1, count,
                         own + (point * inputs + i) * outputs + o, outputs, first > begin);
          }
        }
      }
    }
  });
}

// The same products as sums[point][input][output], for so many channels that threads share the sums. Band by band all threads
// pack the tiles, and then add products: a task those of some channels, which caches hold.
template <int V, typename Take>
void add_points(ffi::ThreadPool& pool, const Tiles& all, int64_t points, int64_t inputs, int64_t outputs, float* sums,
                const Take& take) {
  constexpr int64_t wide = V * kLanes, own = 64, pieces = 16;
  const int64_t rows = ceil_div(inputs, own), columns = ceil_div(outputs, own);
  Points values(all.of_band, inputs, kBlock), gradients(all.of_band, outputs, wide);
  Memory memory;
  values.data = memory.floats(points * (values.step + gradients.step));
  gradients.data = values.data + points * values.step;
  for (int64_t band = 0; band < all.bands; ++band) {
    const int64_t begin = all.begin(band), count = all.begin(band + 1) - begin, parts = ceil_div(count, 2 * kTerms);
    share(pool, pieces, [&](int64_t piece) {
      for (int64_t i = piece * count / pieces; i < (piece + 1) * count / pieces; ++i) {
        take(begin + i, values, gradients, i);
      }
    });
    share(pool, points * rows * columns, [&](int64_t task) {
      const int64_t point = task / columns / rows, row = task / columns % rows * own, column = task % columns * own;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = part * count / parts, number = (part + 1) * count / parts - first;
        for (int64_t o = column; o < std::min(outputs, column + own); o += wide) {
          for (int64_t i = row; i < std::min(inputs, row + own); i += kBlock) {
            add_block<V>(kBlock, {values.at(point, first, i), 0, kBlock}, gradients.at(point, first, o), wide, 1, number,
                         sums + (point * inputs + i) * outputs + o, outputs, band + part > 0);
          }
        }
      }
    });
  }
}

// Of a 1x1 kernel, over bands of pixels.
template <int V>
void over_pixels(ffi::ThreadPool& pool, Images in, Images gradient, const Window& window, Images kernel) {
  const Tiles all(gradient, 1, 1, ceil_div(kThirdLevel, in.channels + gradient.channels), 1);
  const auto pack = [&](int64_t pixel, const Points& values, const Points& gradients, int64_t place) {
    const int64_t n = all.image(pixel), y = all.top(pixel), x = all.left(pixel);
    const float *value = in.at(n, y * window.stride, x * window.stride), *other = gradient.at(n, y, x);
    const Images own = in.as(n);
    for (int64_t c = 0; c < in.channels; c += kLanes) store(values.at(0, place, c), own.read(value, c));
    for (int64_t c = 0; c < gradient.channels; c += kLanes) store(gradients.at(0, place, c), load(other + c));
  };
  const int64_t inputs = in.channels, outputs = gradient.channels, elements = inputs * outputs;
  const int64_t parts = parts_of(elements);
  if (parts == 1) return add_points<V>(pool, all, 1, inputs, outputs, kernel.data, pack);
  Memory memory;
  float* sums = memory.floats(parts * elements);
  add_apart<V>(pool, all.count, 1, inputs, outputs, parts, sums, pack);
  add_parts(sums, parts, elements, kernel.data);
}

// Transforms of Winograd's algorithm, transposed: to_results, and of_weights.
Side<4> of_gradients(Side<2> y) { return {y.at[0], y.at[0] + y.at[1], y.at[0] - y.at[1], -y.at[1]}; }
Side<3> to_weights(Side<4> u) {
  const Vector sum = (u.at[1] + u.at[2]) * 0.5f, difference = (u.at[1] - u.at[2]) * 0.5f;
  return {u.at[0] + sum, difference, sum + u.at[3]};
}

// Of a 3x3 kernel, by Winograd's algorithm: sums of products of transformed values and transformed gradients.
template <int V>
void over_tiles(ffi::ThreadPool& pool, Images in, Images gradient, const Window& window, Images kernel) {
  const int64_t outputs = gradient.channels, most = std::max<int64_t>(1, kThirdLevel / 256 / outputs) * kBlock;
  if (in.channels > most) {  // Of some inputs after the others, for a cache to hold the sums.
    over_tiles<V>(pool, in.part(0, most), gradient, window, kernel);
    kernel.data += most * outputs;
    return over_tiles<V>(pool, in.part(most, in.channels - most), gradient, window, kernel);
  }
  const int64_t inputs = in.channels, elements = 16 * inputs * outputs, parts = parts_of(elements);
  const Tiles all(gradient, 2, 1, std::max<int64_t>(48, kThirdLevel / 16 / (inputs + outputs)), 1);
  Memory memory;
  float* sums = memory.floats(parts * elements);
  const auto pack = [&](int64_t tile, const Points& values, const Points& gradients, int64_t place) {
    const int64_t n = all.image(tile), top = all.top(tile), left = all.left(tile);
    take(values, of_values, in, n, top - window.margin(), left - window.margin(), place);
    take(gradients, of_gradients, gradient, n, top, left, place);
  };
  if (parts == 1) {
    add_points<V>(pool, all, 16, inputs, outputs, sums, pack);
  } else {
    add_apart<V>(pool, all.count, 16, inputs, outputs, parts, sums, pack);
  }
  share(pool, inputs, [&](int64_t i) {
    for (int64_t o = 0; o < outputs; o += kLanes) {
      const auto sum = [&](size_t y, size_t x) {
        Vector total{};
        for (int64_t part = 0; part < parts; ++part) {
          total += load(sums + part * elements + ((4 * y + x) * inputs + i) * outputs + o);
        }
        return total;
      };
      transform(to_weights, sum,
                [&](size_t y, size_t x, Vector weight) { store(kernel.at(y, x, i) + o, weight); });
    }
  });
}

// V vectors of each result, copied side by side: faster where they are read again and again.
template <int V>
const float* side_by_side(const float* from, int64_t step, int64_t results, float* to) {
  constexpr int64_t wide = V * kLanes;
  for (int64_t i = 0; i < results * wide; i += kLanes) store(to + i, load(from + i / wide * step + i % wide));
  return to;
}

// Of images of few channels, as a stem reads them: what a result meets in a row of the kernel lies side by side, and is taken
// at once. A task is a part of the batch.
template <int V>
void over_rows(ffi::ThreadPool& pool, Images in, Images gradient, const Window& window, Images kernel) {
  const int64_t outputs = gradient.channels, wide = V * kLanes, met = window.size * in.channels;
  const int64_t margin = window.padding * in.channels, row = in.width * in.channels + 2 * margin;
  const int64_t elements = window.size * met * outputs, parts = std::min<int64_t>(in.count, 16);
  Memory memory;
  float* sums = memory.floats(parts * elements);
  std::fill_n(sums, parts * elements, 0.0f);
  const int64_t band = std::clamp<int64_t>(kFirstLevel / 2 / (gradient.width * wide), 1, gradient.height);
  share(pool, parts, [&](int64_t part) {
    float* image = of_this_thread.floats(window.span(band) * row + band * gradient.width * wide);
    float* gradients = image + window.span(band) * row;
    for (int64_t n = part * in.count / parts; n < (part + 1) * in.count / parts; ++n) {
      for (int64_t first = 0; first < gradient.height; first += band) {
        const int64_t rows = std::min(band, gradient.height - first);
        for (int64_t i = 0; i < window.span(rows); ++i) {
          const int64_t y = first * window.stride - window.padding + i;
          float* to = std::fill_n(image + i * row, in.holds(y, 0) ? margin : row, 0.0f);
          if (in.holds(y, 0)) std::fill_n(std::copy_n(in.at(n, y, 0), row - 2 * margin, to), margin, 0.0f);
        }
        for (int64_t o = 0; o < outputs; o += wide) {
          side_by_side<V>(gradient.at(n, first, 0) + o, gradient.step, rows * gradient.width, gradients);
          for (int64_t y = 0; y < window.size; ++y) {
            add_block<V>(met, {image + y * row, window.stride * row, window.stride * in.channels}, gradients, wide, rows,
                         gradient.width, sums + part * elements + y * met * outputs + o, outputs, true);
          }
        }
      }
    }
  });
  add_parts(sums, parts, elements, kernel.data);
}

// Adds to sums[input of the group][vector of outputs] the products of values and gradients in groups of G, over rows of
// results. Several results in a row are summed apart, for a sum not to wait for another.
template <int G>
void add_group_products(Grid pixels, const float* gradient, int64_t gradient_step, int64_t rows, int64_t columns,
                        float* sums, int64_t sums_step) {
  constexpr int apart = ceil_div(8, G);
  Vector sum[apart][G] = {};
  const auto add = [&](Vector* own, const float* pixel, const float* result) {
    const Vector values = load(pixel), gradients = load(result);
    unrolled<G>([&](auto j) { own[j] += gradients * spread<G, j>(values); });
  };
  for (int64_t row = 0; row < rows; ++row) {
    const float* pixel = pixels.first + row * pixels.row;
    int64_t column = 0;
    for (; column + apart <= columns; column += apart) {
#pragma GCC unroll 8
      for (int i = 0; i < apart; ++i, pixel += pixels.step, gradient += gradient_step) add(sum[i], pixel, gradient);
    }
    for (; column < columns; ++column, pixel += pixels.step, gradient += gradient_step) add(sum[0], pixel, gradient);
  }
  for (int j = 0; j < G; ++j) {
    for (int i = 1; i < apart; ++i) sum[0][j] += sum[i][j];
    store(sums + j * sums_step, load(sums + j * sums_step) + sum[0][j]);
  }
}

// In groups of G, tap by tap: a task is a block of channels and, where there are few blocks, a part of the batch.
template <int G>
void over_groups(ffi::ThreadPool& pool, Images in, Images gradient, const Window& window, Images kernel) {
  const int64_t channels = in.channels, blocks = channels / kBlock, taps = window.size * window.size;
  const int64_t elements = taps * G * channels, parts = std::min<int64_t>(in.count, ceil_div(16, blocks));
  Memory memory;
  float* sums = memory.floats(parts * elements);
  std::fill_n(sums, parts * elements, 0.0f);
  const Packed packed(in, window, gradient.width);
  const int64_t band = std::clamp<int64_t>(kFirstLevel / 2 / (packed.row * window.step()), 1, gradient.height);
  share(pool, parts * blocks, [&](int64_t task) {
    const int64_t part = task / blocks, block = task % blocks;
    float* image = of_this_thread.floats(window.span(band) * packed.row);
    for (int64_t n = part * in.count / parts; n < (part + 1) * in.count / parts; ++n) {
      for (int64_t first = 0; first < gradient.height; first += band) {
        const int64_t rows = std::min(band, gradient.height - first);
        packed.pack(n, block, first * window.stride - window.padding, window.span(rows), image);
        for (int64_t t = 0; t < taps; ++t) {
          for (int64_t c = block * kBlock; c < (block + 1) * kBlock; c += kLanes) {
            const float* pixels = image + packed.at(t / window.size, t % window.size) + c % kBlock;
            add_group_products<G>({pixels, window.stride * packed.row, kBlock}, gradient.at(n, first, 0) + c, gradient.step,
                                  rows, gradient.width, sums + part * elements + t * G * channels + c, channels);
          }
        }
      }
    }
  });
  add_parts(sums, parts, elements, kernel.data);
}

// Of any kernel, tap by tap: a task is a block of inputs and, where there are few blocks, a part of the batch.
template <int V>
void over_taps(ffi::ThreadPool& pool, Images in, Images gradient, const Window& window, Images kernel) {
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
          const bool packs = taps > 1 && own.step > wide;
          if (packs) from = side_by_side<V>(from, own.step, rows * own.width, gradients);
          for (int64_t t = 0; t < taps; ++t) {
            const float* pixels = image + packed.at(t / window.size, t % window.size);
            float* to = sums + part * elements + (t * in.channels + block * kBlock) * outputs + o;
            add_block<V>(depth, {pixels, window.stride * packed.row, kBlock}, from, packs ? wide : own.step, rows,
                         own.width, to, outputs, true);
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

// The products of a convolution, summed in whichever of these ways serves.
template <int V>
void sum_products(ffi::ThreadPool& pool, Images in, Images gradient, const Window& window, Images kernel) {
  if (winograd_serves(window, in, gradient)) return over_tiles<V>(pool, in, gradient, window, kernel);
  const auto few = [&](auto group) { over_groups<group>(pool, in, gradient, window, kernel); };
  if (grouped(window, kernel, few)) return;
  if (in.channels < kBlock / 2 && window.groups == 1) return over_rows<V>(pool, in, gradient, window, kernel);
  // Of fewer channels, packing pixels takes longer than it saves.
  const bool many = in.channels % kBlock == 0 && std::min(in.channels, gradient.channels) > 4 * kBlock;
  (window.pointwise() && many ? over_pixels<V> : over_taps<V>)(pool, in, gradient, window, kernel);
}

// The gradient to the kernel from x, read as in `forward`, and the gradient g to the result.
ffi::Error kernel_gradient(ffi::ThreadPool pool, Buffer x, Buffer g, Channels scale, Channels offset,
                           ffi::Result<Buffer> kernel, int64_t groups, int64_t padding, int64_t stride) {
  const Window window{kernel->dimensions()[0], stride, padding, groups, false};
  return checked(x, *kernel, g, window, g.dimensions()[3], readable(x, scale, offset), [&](auto v) {
    sum_products<v>(pool, images_of(x, scale, offset), Images(g), window, Images(*kernel));
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_kernel_gradient, kernel_gradient,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Arg<Channels>()
                                  .Arg<Channels>().Ret<Buffer>().Attr<int64_t>("groups").Attr<int64_t>("padding")
                                  .Attr<int64_t>("stride"));
