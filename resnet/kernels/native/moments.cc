// Sums over the rows of [..., rows, channels], channel by channel: what batch norm needs of its input and of the
// gradient to its result. Each reads its operands once; the order of a sum follows from the shapes alone.
#include <cfloat>
#include <cmath>
#include <initializer_list>

#include "threads.h"

namespace {

using Buffer = ffi::Buffer<ffi::F32>;

// Rows that are summed in registers, while a first-level cache holds them.
int64_t chunk_of(int64_t channels) { return std::clamp<int64_t>(kFirstLevel / 2 / channels, 16, kTerms); }

// term(row) summed over rows, in four sums that do not wait for each other.
template <typename Term>
inline __attribute__((always_inline)) Vector sum(int64_t rows, const Term& term) {
  Vector sums[4] = {};
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] += term(row + i);
  }
  for (; row < rows; ++row) sums[0] += term(row);
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// The mean of some rows less `origin`, a value of each channel near to them, which keeps what is summed small,
// and the squared deviations from it.
void moments_of(const float* x, const float* origin, int64_t rows, int64_t channels, float* mean, float* squares) {
  std::fill_n(mean, channels, 0.0f), std::fill_n(squares, channels, 0.0f);
  const int64_t chunk = chunk_of(channels);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t n = std::min(chunk, rows - first);
    // What is found joins what is known as of another sample (Chan, Golub, LeVeque 1979).
    const float share = static_cast<float>(n) / static_cast<float>(first + n);
    for (int64_t c = 0; c < channels; c += kLanes) {
      const float* from = x + first * channels + c;
      const Vector zero = load(origin + c);
      const Vector center =
          sum(n, [&](int64_t row) { return load(from + row * channels) - zero; }) / static_cast<float>(n);
      const Vector deviations = sum(n, [&](int64_t row) {
        const Vector deviation = load(from + row * channels) - zero - center;
        return deviation * deviation;
      });
      const Vector known = load(mean + c), apart = center - known;
      store(mean + c, known + apart * share);
      store(squares + c, load(squares + c) + deviations + apart * apart * (share * static_cast<float>(first)));
    }
  }
}

// Sums of g, and of g times the deviation of x from its mean, over some rows.
void projections_of(const float* g, const float* x, const float* mean, int64_t rows, int64_t channels, float* sums,
                    float* products) {
  std::fill_n(sums, channels, 0.0f), std::fill_n(products, channels, 0.0f);
  const int64_t chunk = chunk_of(channels);
  for (int64_t first = 0; first < rows; first += chunk) {
    const int64_t n = std::min(chunk, rows - first);
    for (int64_t c = 0; c < channels; c += kLanes) {
      const float *ours = g + first * channels + c, *theirs = x + first * channels + c;
      const Vector center = load(mean + c);
      store(sums + c, load(sums + c) + sum(n, [&](int64_t row) { return load(ours + row * channels); }));
      store(products + c, load(products + c) + sum(n, [&](int64_t row) {
        return load(ours + row * channels) * (load(theirs + row * channels) - center);
      }));
    }
  }
}

// A sum that does not overflow in float32, in whichever order its terms are added. In sums with terms of both
// signs a term large enough to overflow on the way shows in the squared deviations.
bool sound(double sum) { return std::abs(sum) <= FLT_MAX; }

// The sum of term(row), one row after the other as XLA adds them: to infinity or NaN where its sum is.
template <typename Term>
Vector sum_in_order(int64_t rows, const Term& term) {
  Vector sum = {};
  for (int64_t row = 0; row < rows; ++row) sum += term(row);
  return sum;
}

struct Pair {
  Vector first, second;
};

// Mean and variance of a vector of channels by the two plain passes over all rows.
Pair plain_moments(const float* x, int64_t rows, int64_t channels) {
  const float count = rows;
  const Vector mean = sum_in_order(rows, [&](int64_t row) { return load(x + row * channels); }) / count;
  return {mean, sum_in_order(rows, [&](int64_t row) {
    const Vector deviation = load(x + row * channels) - mean;
    return deviation * deviation;
  }) / count};
}

// Sums of g, and of g times the deviation of x from its mean, for a vector of channels.
Pair plain_projections(const float* g, const float* x, const float* mean, int64_t rows, int64_t channels) {
  const Vector center = load(mean);
  return {sum_in_order(rows, [&](int64_t row) { return load(g + row * channels); }),
          sum_in_order(rows, [&](int64_t row) {
            return load(g + row * channels) * (load(x + row * channels) - center);
          })};
}

// The parts that the rows of a group are taken in, and where the two results of each part are kept.
struct Parts {
  Parts(Buffer x)
      : channels(x.dimensions()[x.dimensions().size() - 1]), rows(x.dimensions()[x.dimensions().size() - 2]),
        groups(x.element_count() / (rows * channels)), count(std::clamp<int64_t>(rows * channels >> 15, 1, 32)),
        found(groups * count * 2 * channels), unsound(groups * channels) {}

  int64_t begin(int64_t part) const { return part * rows / count; }
  int64_t size(int64_t part) const { return begin(part + 1) - begin(part); }
  // Of x, or what has its shape, in a group.
  int64_t at(int64_t group, int64_t part) const { return (group * rows + begin(part)) * channels; }
  float* first(int64_t group, int64_t part) { return found.data() + (group * count + part) * 2 * channels; }
  float* second(int64_t group, int64_t part) { return first(group, part) + channels; }

  // Replaces the results of the unsound channels by the pair that plain(channel of all groups, its place in what
  // has the shape of x) finds for a vector of channels.
  template <typename Plain>
  void replace_unsound(ffi::ThreadPool& pool, float* firsts, float* seconds, const Plain& plain) const {
    if (std::find(unsound.begin(), unsound.end(), true) == unsound.end()) return;
    share(pool, groups * channels / kLanes, [&](int64_t task) {
      const int64_t i = task * kLanes;
      if (std::find(&unsound[i], &unsound[i] + kLanes, true) == &unsound[i] + kLanes) return;
      const Pair pair = plain(i, at(i / channels, 0) + i % channels);
      for (int lane = 0; lane < kLanes; ++lane) {
        if (unsound[i + lane]) firsts[i + lane] = pair.first[lane], seconds[i + lane] = pair.second[lane];
      }
    });
  }

  int64_t channels, rows, groups, count;
  std::vector<float> found;
  std::vector<char> unsound;
};

// f(parts), or an error where the arrays of rows have no channels for whole vectors or have different shapes, or
// an array of one value for each channel has another number of them.
template <typename F>
ffi::Error checked(std::initializer_list<Buffer> rows, std::initializer_list<Buffer> channels, const F& f) {
  const auto shape = rows.begin()->dimensions();
  const int64_t rank = shape.size();
  bool fits = rank >= 2 && shape[rank - 2] > 0 && shape[rank - 1] > 0 && shape[rank - 1] % kLanes == 0;
  std::string shapes;
  for (Buffer buffer : rows) {
    fits = fits && std::equal(shape.begin(), shape.end(), buffer.dimensions().begin(), buffer.dimensions().end());
    shapes += " " + text(buffer.dimensions());
  }
  for (Buffer buffer : channels) {
    fits = fits && buffer.element_count() * shape[rank - 2] == rows.begin()->element_count();
    shapes += " " + text(buffer.dimensions());
  }
  if (!fits) return ffi::Error::InvalidArgument("no native sums over the rows of" + shapes);
  return guarded([&] {
    Parts parts(*rows.begin());
    f(parts);
    return ffi::Error::Success();
  });
}

ffi::Error moments(ffi::ThreadPool pool, Buffer x, ffi::Result<Buffer> mean, ffi::Result<Buffer> variance) {
  return checked({x}, {*mean, *variance}, [&](Parts& parts) {
    share(pool, parts.groups * parts.count, [&](int64_t task) {
      const int64_t group = task / parts.count, part = task % parts.count;
      moments_of(x.typed_data() + parts.at(group, part), x.typed_data() + parts.at(group, 0), parts.size(part),
                 parts.channels, parts.first(group, part), parts.second(group, part));
    });
    for (int64_t i = 0; i < parts.groups * parts.channels; ++i) {
      const int64_t group = i / parts.channels, c = i % parts.channels;
      double center = 0, squares = 0;
      for (int64_t part = 0; part < parts.count; ++part) {
        center += parts.first(group, part)[c] * static_cast<double>(parts.size(part)) / parts.rows;
      }
      for (int64_t part = 0; part < parts.count; ++part) {
        const double apart = parts.first(group, part)[c] - center;
        squares += parts.second(group, part)[c] + parts.size(part) * apart * apart;
      }
      center += x.typed_data()[parts.at(group, 0) + c];
      mean->typed_data()[i] = center;
      variance->typed_data()[i] = squares / parts.rows;
      parts.unsound[i] = !sound(center * parts.rows) || !sound(squares);
    }
    parts.replace_unsound(pool, mean->typed_data(), variance->typed_data(), [&](int64_t, int64_t at) {
      return plain_moments(x.typed_data() + at, parts.rows, parts.channels);
    });
  });
}

ffi::Error projections(ffi::ThreadPool pool, Buffer g, Buffer x, Buffer mean, ffi::Result<Buffer> sums,
                       ffi::Result<Buffer> products) {
  return checked({x, g}, {mean, *sums, *products}, [&](Parts& parts) {
    share(pool, parts.groups * parts.count, [&](int64_t task) {
      const int64_t group = task / parts.count, part = task % parts.count, at = parts.at(group, part);
      projections_of(g.typed_data() + at, x.typed_data() + at, mean.typed_data() + group * parts.channels,
                     parts.size(part), parts.channels, parts.first(group, part), parts.second(group, part));
    });
    for (int64_t i = 0; i < parts.groups * parts.channels; ++i) {
      const int64_t group = i / parts.channels, c = i % parts.channels;
      double sum = 0, product = 0;
      for (int64_t part = 0; part < parts.count; ++part) {
        sum += parts.first(group, part)[c], product += parts.second(group, part)[c];
      }
      sums->typed_data()[i] = sum;
      products->typed_data()[i] = product;
      parts.unsound[i] = !sound(sum) || !sound(product);
    }
    parts.replace_unsound(pool, sums->typed_data(), products->typed_data(), [&](int64_t i, int64_t at) {
      return plain_projections(g.typed_data() + at, x.typed_data() + at, mean.typed_data() + i, parts.rows,
                               parts.channels);
    });
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_moments, moments,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Ret<Buffer>().Ret<Buffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_projections, projections,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>()
                                  .Ret<Buffer>().Ret<Buffer>());
