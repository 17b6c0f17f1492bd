// What norms, ReLUs and shortcuts do to whole images, pixel by pixel, each in one pass over its operands. A processor takes
// the same images as in the convolutions before and after, so that its caches may still hold them.
#include <cmath>
#include <initializer_list>
#include <type_traits>

#include "operands.h"

namespace {

constexpr int64_t kTask = 1 << 15;  // floats, about

// f(first float, end) for whole pixels of all images, in tasks; or an error where the images have different shapes or no
// channels for whole vectors, or where what is `joined` to them does not fit.
template <typename F>
ffi::Error over_pixels(ffi::ThreadPool& pool, std::initializer_list<Buffer> images, bool joined, const F& f) {
  const auto shape = images.begin()->dimensions();
  std::string shapes;
  if (!alike(images, shapes) || !joined || shape[3] == 0 || shape[3] % kLanes) {
    return ffi::Error::InvalidArgument("no native pass takes images of" + shapes + " and what comes with them");
  }
  return guarded([&] {
    const int64_t channels = shape[3], pixels = images.begin()->element_count() / channels;
    const int64_t tasks = ceil_div(pixels * channels, kTask);
    share(pool, tasks, [&](int64_t task) {
      f(task * pixels / tasks * channels, (task + 1) * pixels / tasks * channels);
    });
    return ffi::Error::Success();
  });
}

// first * first_scale + second * second_scale + offset, and zero where that is negative if it rectifies. With a mask, a
// scale and an offset, `first` counts where second * mask_scale + mask_offset is positive.
ffi::Error combination(ffi::ThreadPool pool, Buffer first, Buffer second, Channels first_scale, Channels second_scale,
                       Channels offset, Channels mask_scale, Channels mask_offset, ffi::Result<Buffer> result,
                       bool rectifies) {
  const auto shape = result->dimensions();
  const int64_t images = shape[0], channels = shape[3], of_image = shape[1] * shape[2] * channels;
  const bool joined = one_each(first_scale, images, channels) && one_each(second_scale, images, channels) &&
                      one_each(offset, images, channels) && none_or_each(mask_scale, mask_offset, images, channels);
  const auto run = [&](auto masked) {
    return over_pixels(pool, {first, second, *result}, joined, [&](int64_t begin, int64_t end) {
      const Vector least = Vector{} - (rectifies ? 0.0f : INFINITY);
      while (begin < end) {
        const int64_t n = begin / of_image, stop = std::min(end, (n + 1) * of_image);
        const auto of = [&](Channels each) {
          return each.typed_data() + n * each.dimensions()[0] / images * channels;
        };
        const float *a_scale = of(first_scale), *b_scale = of(second_scale), *plus = of(offset);
        const float *slope = of(mask_scale), *start = of(mask_offset);
        for (; begin < stop; begin += channels) {
          for (int64_t c = 0; c < channels; c += kLanes) {
            Vector a = load(first.typed_data() + begin + c);
            const Vector b = load(second.typed_data() + begin + c);
            if constexpr (masked) a = where_positive(b * load(slope + c) + load(start + c), a);
            const Vector sum = a * load(a_scale + c) + load(plus + c) + b * load(b_scale + c);
            store(result->typed_data() + begin + c, sum < least ? least : sum);
          }
        }
      }
    });
  };
  return mask_scale.element_count() > 0 ? run(std::true_type()) : run(std::false_type());
}

// first + second where `rectified`, the result of a ReLU, is positive, else zero: the gradient to what the ReLU takes.
ffi::Error masked_sum(ffi::ThreadPool pool, Buffer first, Buffer second, Buffer rectified, ffi::Result<Buffer> sum) {
  return over_pixels(pool, {first, second, rectified, *sum}, true, [&](int64_t begin, int64_t end) {
    for (; begin < end; begin += kLanes) {
      const Vector both = load(first.typed_data() + begin) + load(second.typed_data() + begin);
      store(sum->typed_data() + begin, where_positive(load(rectified.typed_data() + begin), both));
    }
  });
}

}  // namespace

XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_combination, combination,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Arg<Channels>()
                                  .Arg<Channels>().Arg<Channels>().Arg<Channels>().Arg<Channels>().Ret<Buffer>()
                                  .Attr<bool>("relu"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(resnet_masked_sum, masked_sum,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Arg<Buffer>().Arg<Buffer>().Arg<Buffer>()
                                  .Ret<Buffer>());
