// Sums over the rows of [..., rows, channels], channel by channel: what batch norm needs of its input and of the
// gradient to its result. Each reads its operands once; the order of a sum follows from the shapes alone.
#include <cmath>
#include <initializer_list>
#include <type_traits>

#include "threads.h"

namespace {

using Buffer = ffi::Buffer<ffi::F32>;

typedef double Doubles __attribute__((vector_size(kLanes * sizeof(double)), aligned(sizeof(double)), may_alias));
inline Doubles doubles(Vector v) { return __builtin_convertvector(v, Doubles); }

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

struct Pair {
  Doubles first, second;
};

// Two sums for each channel of each group.
struct Sums {
  explicit Sums(Buffer x)
      : channels(x.dimensions()[x.dimensions().size() - 1]), rows(x.dimensions()[x.dimensions().size() - 2]),
        groups(x.element_count() / (rows * channels)), first(groups * channels), second(groups * channels) {}

  // of(place of a row in what has the shape of x, rows from there on, channel of all groups) gives what a vector of
  // channels has of some rows, so few that a first-level cache holds them while they are read twice.
  template <typename Of>
  void add(ffi::ThreadPool& pool, const Of& of) {
    const int64_t parts = std::clamp<int64_t>(rows * channels >> 15, 1, 32), count = groups * channels;
    const int64_t chunk = std::clamp<int64_t>(kFirstLevel / 2 / channels, 16, kTerms);
    std::vector<double> found(parts * 2 * count);
    share(pool, groups * parts, [&](int64_t task) {
      const int64_t group = task / parts, part = task % parts, end = (part + 1) * rows / parts;
      double* own = &found[part * 2 * count + group * channels];
      for (int64_t row = part * rows / parts; row < end; row += chunk) {
        for (int64_t c = 0; c < channels; c += kLanes) {
          const Pair pair = of((group * rows + row) * channels + c, std::min(chunk, end - row), group * channels + c);
          *reinterpret_cast<Doubles*>(own + c) += pair.first;
          *reinterpret_cast<Doubles*>(own + count + c) += pair.second;
        }
      }
    });
    for (int64_t part = 0; part < parts; ++part) {
      const double* own = &found[part * 2 * count];
      for (int64_t i = 0; i < count; ++i) first[i] += own[i], second[i] += own[count + i];
    }
  }

  int64_t channels, rows, groups;
  std::vector<double> first, second;
};

// f(sums), or an error where the arrays of rows have no channels for whole vectors or have different shapes, or
// an array of one value for each channel has another number of them.
template <typename F>
ffi::Error checked(std::initializer_list<Buffer> rows, std::initializer_list<Buffer> channels, const F& f) {
  const auto shape = rows.begin()->dimensions();
  const int64_t rank = shape.size();
  std::string shapes;
  bool fits = alike(rows, shapes) && rank >= 2 && shape[rank - 2] > 0 && shape[rank - 1] > 0 &&
              shape[rank - 1] % kLanes == 0;
  for (Buffer buffer : channels) {
    fits = fits && buffer.element_count() * shape[rank - 2] == rows.begin()->element_count();
    shapes += " " + text(buffer.dimensions());
  }
  if (!fits) return ffi::Error::InvalidArgument("no native sums over the rows of" + shapes);
  return guarded([&] {
    Sums sums(*rows.begin());
    f(sums);
    return ffi::Error::Success();
  });
}

// Mean and biased variance. What is summed are deviations from `origin`, a value of the channel, which keeps them small,
// and their squares: of some rows as the squares about their own mean, and that mean's.
ffi::Error moments(ffi::ThreadPool pool, Buffer x, ffi::Result<Buffer> mean, ffi::Result<Buffer> variance) {
  return checked({x}, {*mean, *variance}, [&](Sums& sums) {
    const int64_t channels = sums.channels, last = (sums.rows - 1) * channels;
    std::vector<float> origin(sums.groups * channels);
    for (int64_t i = 0; i < sums.groups * channels; ++i) {
      const float* of_first = x.typed_data() + i / channels * sums.rows * channels + i % channels;
      // The nearer to zero: about a value near the largest float the others would overflow.
      const float value = std::abs(*of_first) < std::abs(of_first[last]) ? *of_first : of_first[last];
      origin[i] = std::isfinite(value) ? value : 0;
    }
    sums.add(pool, [&](int64_t at, int64_t rows, int64_t channel) {
      const float* from = x.typed_data() + at;
      const Vector zero = load(&origin[channel]);
      const Vector center =
          sum(rows, [&](int64_t row) { return load(from + row * channels) - zero; }) / static_cast<float>(rows);
      const Vector squares = sum(rows, [&](int64_t row) {
        const Vector deviation = load(from + row * channels) - zero - center;
        return deviation * deviation;
      });
      const Doubles total = doubles(center) * static_cast<double>(rows);
      return Pair{total, doubles(squares) + total * doubles(center)};
    });
    for (int64_t i = 0; i < sums.groups * channels; ++i) {
      const double squares = sums.second[i] - sums.first[i] * sums.first[i] / sums.rows;
      // Infinite where a sum in float32 would be, and then the deviations from it.
      const float total = sums.first[i] + static_cast<double>(origin[i]) * sums.rows;
      mean->typed_data()[i] = total / sums.rows;
      variance->typed_data()[i] = static_cast<float>(std::isinf(total) ? squares + INFINITY : squares) / sums.rows;
    }
  });
}

// Sums of g, and of g times the deviation of x from its mean; with a scale and an offset, of g where x * scale + offset is
// positive, the derivative of the ReLU there.
ffi::Error projections(ffi::ThreadPool pool, Buffer g, Buffer x, Buffer mean, Buffer scale, Buffer offset,
                       ffi::Result<Buffer> of_g, ffi::Result<Buffer> products) {
  const auto run = [&](Sums& sums, auto masked) {
    sums.add(pool, [&](int64_t at, int64_t rows, int64_t channel) {
      const float *ours = g.typed_data() + at, *theirs = x.typed_data() + at;
      const Vector center = load(mean.typed_data() + channel);
      const Vector slope = masked ? load(scale.typed_data() + channel) : Vector{};
      const Vector start = masked ? load(offset.typed_data() + channel) : Vector{};
      const auto kept = [&](int64_t row) {
        const Vector value = load(ours + row * sums.channels);
        if constexpr (!masked) return value;
        return where_positive(load(theirs + row * sums.channels) * slope + start, value);
      };
      return Pair{doubles(sum(rows, kept)), doubles(sum(rows, [&](int64_t row) {
                    return kept(row) * (load(theirs + row * sums.channels) - center);
                  }))};
    });
    std::copy(sums.first.begin(), sums.first.end(), of_g->typed_data());
    std::copy(sums.second.begin(), sums.second.end(), products->typed_data());
  };
  if (scale.element_count() == 0 && offset.element_count() == 0) {
    return checked({x, g}, {mean, *of_g, *products}, [&](Sums& sums) { run(sums, std::false_type()); });
  }
  return checked({x, g}, {mean, scale, offset, *of_g, *products}, [&](Sums& sums) { run(sums, std::true_type()); });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_moments, moments,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Ret<Buffer>().Ret<Buffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_projections, projections,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>()
                                  .Arg<Buffer>().Arg<Buffer>().Ret<Buffer>().Ret<Buffer>());
