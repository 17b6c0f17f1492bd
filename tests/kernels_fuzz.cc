// Calls the native kernels as XLA does, with shapes drawn at random, on three threads: to be compiled together with
// them under a sanitizer. kernels_fuzz SEED CASES prints what differs from plain sums in double, and ends with 1.
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "xla/ffi/api/c_api.h"

extern "C" {
XLA_FFI_Handler resnet_forward, resnet_input_gradient, resnet_kernel_gradient, resnet_moments, resnet_projections,
    resnet_combination, resnet_masked_sum;
extern const int32_t resnet_channels;
}

namespace {

class Pool {
 public:
  Pool() {
    for (int i = 0; i < 3; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Pool() {
    for (size_t i = 0; i < threads_.size(); ++i) schedule({});
    for (std::thread& thread : threads_) thread.join();
  }
  void schedule(std::function<void()> task) {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    some_.notify_one();
  }

 private:
  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      some_.wait(lock, [this] { return !tasks_.empty(); });
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      if (!task) return;
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable some_;
  std::deque<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

Pool pool;
std::mt19937 draw;
int64_t among(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(draw); }
// A number of channels of a result, from `low` on if results have so few.
int64_t multiple(int64_t low, int64_t high) {
  return resnet_channels * among(std::max<int64_t>(1, low / resnet_channels), high / resnet_channels);
}

// An array with not a byte more than it needs, for the sanitizer to see what lies beside it.
struct Array {
  explicit Array(std::vector<int64_t> shape)
      : dims(std::move(shape)),
        size(std::accumulate(dims.begin(), dims.end(), int64_t{1}, std::multiplies<>())), data(new float[size]) {
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < size; ++i) data[i] = normal(draw);
  }
  XLA_FFI_Buffer buffer() {
    return {XLA_FFI_Buffer_STRUCT_SIZE, nullptr, XLA_FFI_DataType_F32, data.get(), int64_t(dims.size()), dims.data()};
  }
  float& at(int64_t a, int64_t b, int64_t c, int64_t d) const {
    return data[((a * dims[1] + b) * dims[2] + c) * dims[3] + d];
  }

  std::vector<int64_t> dims;
  int64_t size;
  std::unique_ptr<float[]> data;
};

XLA_FFI_Api make_api() {
  XLA_FFI_Api api{};
  api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
  api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  api.XLA_FFI_Error_Create = +[](XLA_FFI_Error_Create_Args* args) {
    return reinterpret_cast<XLA_FFI_Error*>(new std::string(args->message));
  };
  api.XLA_FFI_ThreadPool_NumThreads = +[](XLA_FFI_ThreadPool_NumThreads_Args* args) -> XLA_FFI_Error* {
    return *args->num_threads = 3, nullptr;
  };
  api.XLA_FFI_ThreadPool_Schedule = +[](XLA_FFI_ThreadPool_Schedule_Args* args) -> XLA_FFI_Error* {
    return pool.schedule([task = args->task, data = args->data] { task(data); }), nullptr;
  };
  return api;
}

// The handler's error, or an empty text. `attributes` are by name, in alphabetical order.
template <typename... Attributes>
std::string call(XLA_FFI_Handler* handler, std::vector<Array*> in, std::vector<Array*> out,
                 std::pair<std::string, Attributes>... attributes) {
  static const XLA_FFI_Api api = make_api();
  std::vector<XLA_FFI_Buffer> buffers;
  for (Array* array : in) buffers.push_back(array->buffer());
  for (Array* array : out) buffers.push_back(array->buffer());
  std::vector<void*> pointers;
  for (XLA_FFI_Buffer& buffer : buffers) pointers.push_back(&buffer);
  std::vector<XLA_FFI_ArgType> arguments(in.size(), XLA_FFI_ArgType_BUFFER);
  std::vector<XLA_FFI_RetType> results(out.size(), XLA_FFI_RetType_BUFFER);
  std::vector<XLA_FFI_ByteSpan> texts = {{attributes.first.data(), attributes.first.size()}...};
  std::vector<XLA_FFI_Scalar> scalars = {
      {std::is_same_v<Attributes, bool> ? XLA_FFI_DataType_PRED : XLA_FFI_DataType_S64, &attributes.second}...};
  std::vector<XLA_FFI_ByteSpan*> names;
  std::vector<void*> values;
  for (size_t i = 0; i < texts.size(); ++i) names.push_back(&texts[i]), values.push_back(&scalars[i]);
  std::vector<XLA_FFI_AttrType> kinds(texts.size(), XLA_FFI_AttrType_SCALAR);
  XLA_FFI_CallFrame frame{};
  frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
  frame.api = &api;
  frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
  frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, int64_t(in.size()), arguments.data(), pointers.data()};
  frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, int64_t(out.size()), results.data(), pointers.data() + in.size()};
  frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, int64_t(texts.size()), kinds.data(), names.data(),
                 values.data()};
  auto* error = reinterpret_cast<std::string*>(handler(&frame));
  const std::string text = error ? *error : "";
  delete error;
  return text;
}

// Whether `found` holds a sum whose terms' absolute values sum to `size`.
bool near(float found, double exact, double size) { return std::abs(found - exact) <= 1e-5 * size + 1e-6; }

// The shape of values of channels, of so many images: of all of them, or of each of two or more equal parts.
std::vector<int64_t> of_channels(int64_t images, int64_t channels) {
  const int64_t parts = among(1, images);
  return {images % parts ? 1 : parts, channels};
}

// Of these values, that of image n.
float of_image(const Array& values, int64_t n, int64_t images, int64_t channel) {
  return values.data[n / (images / values.dims[0]) * values.dims[1] + channel];
}

// What images may be read through: relu(value * scale + offset).
struct Reading {
  explicit Reading(const std::vector<int64_t>& shape) : scale(shape), offset(shape) {}
  float of(float value, int64_t n, int64_t images, int64_t channel) const {
    if (!scale.size) return value;
    return std::max(value * of_image(scale, n, images, channel) + of_image(offset, n, images, channel), 0.0f);
  }

  Array scale, offset;
};

// What a convolution may end in.
struct Ending {
  Ending(const std::vector<int64_t>& result, bool ends)
      : scale({1, ends ? result[3] : 0}), offset({1, ends ? result[3] : 0}),
        shortcut(ends && among(0, 1) ? result : std::vector<int64_t>(4)), relu(ends && among(0, 1)) {}
  void apply(int64_t place, double& sum, double& size) const {
    const int64_t o = place % scale.size;
    const double added = shortcut.size ? shortcut.data[place] : 0;
    sum = sum * scale.data[o] + offset.data[o] + added;
    size = size * std::abs(scale.data[o]) + std::abs(offset.data[o]) + std::abs(added);
    if (relu) sum = std::max(sum, 0.0);
  }

  Array scale, offset, shortcut;
  bool relu;
};

// A convolution, as it is or with what is joined to it, or one of its gradients; with some number of the shapes changed, an
// error, unless it is the side of an image and stride or border make up for it.
bool convolution() {
  const bool tall = among(0, 7) == 0;               // an image that is packed in several bands of rows
  const bool tiled = !tall && among(0, 3) == 0;  // one for Winograd's algorithm
  const bool pointwise = !tall && !tiled && among(0, 5) == 0;
  const int64_t size = pointwise ? 1 : tiled ? 3 : among(1, tall ? 3 : 7), padding = among(0, size - 1);
  const int64_t stride = tiled ? 1 : among(1, 4), images = tiled ? 3 : tall ? 1 : among(1, 3);
  const int64_t blocked = tall ? multiple(16, 16) : pointwise ? multiple(64, 96) : multiple(8, 48);
  const int64_t free = pointwise ? 16 * among(4, 6) : tiled ? 16 * among(1, 3) : among(1, 40);
  const int64_t kind = among(0, 2);
  const int64_t group = int64_t{1} << among(0, 5);  // channels of one group, where there are several
  const bool grouped = !tall && !tiled && among(0, 2) == 0 && 2 * group <= 64;
  const int64_t inputs = grouped ? std::max<int64_t>(16, group) * among(2, 3) : kind == 1 ? blocked : free;
  const int64_t outputs = grouped ? inputs : kind == 1 ? free : blocked, groups = grouped ? inputs / group : 1;
  const int64_t smallest = std::max<int64_t>(1, size - 2 * padding);
  int64_t height = among(smallest, smallest + 10) + (tall ? 150 : 0), width = among(smallest, smallest + 10);
  const int64_t rows = (height + 2 * padding - size) / stride + 1, columns = (width + 2 * padding - size) / stride + 1;
  std::vector<std::vector<int64_t>> shapes = {
      {images, height, width, inputs}, {size, size, inputs / groups, outputs}, {images, rows, columns, outputs}};
  if (among(0, 4) == 0) {
    int64_t& n = shapes[among(0, 2)][among(0, 3)];
    const int64_t other = among(0, 2) ? std::max<int64_t>(0, n + among(-3, 3)) : 0;
    n = other == n ? n + 1 : other;
  }
  Array x(shapes[0]), kernel(shapes[1]), y(shapes[2]);
  XLA_FFI_Handler* handlers[] = {resnet_forward, resnet_input_gradient, resnet_kernel_gradient};
  Array* all[] = {&y, &x, &kernel};
  Array* result = all[kind];
  const bool ends = kind == 0 && among(0, 1), wrong = kind != 1 && among(0, 9) == 0;
  Ending ending(y.dims, ends);
  const bool reads = kind != 1 && x.dims[3] % resnet_channels == 0 && among(0, 1);
  Reading reading(reads ? of_channels(images, x.dims[3]) : std::vector<int64_t>{0, 0});
  if (wrong) {
    const int64_t more = among(0, 1);
    (kind == 0 && among(0, 1) ? ending.offset : reading.scale) =
        Array({1 + more * images, x.dims[3] + (1 - more) * (y.dims[3] + 1)});
  }
  const std::pair<std::string, int64_t> of{"groups", groups}, pad{"padding", padding}, step{"stride", stride};
  const std::string error =
      kind == 0 ? call(handlers[kind], {&x, &kernel, &reading.scale, &reading.offset, &ending.scale, &ending.offset,
                                        &ending.shortcut}, {result}, of, pad,
                       std::pair<std::string, bool>{"relu", ending.relu}, step)
      : kind == 1 ? call(handlers[kind], {&y, &kernel}, {result}, of, pad, step)
                  : call(handlers[kind], {&x, &y, &reading.scale, &reading.offset}, {result}, of, pad, step);
  auto fits = [&](int side, int64_t results) {
    const int64_t room = x.dims[side] + 2 * padding - size;
    return x.dims[side] > 0 && room >= 0 && room / stride + 1 == results;
  };
  height = x.dims[1], width = x.dims[2];
  const bool sides_alone = std::vector{images, height, width, inputs} == x.dims &&
                           std::vector{size, size, inputs / groups, outputs} == kernel.dims &&
                           std::vector{images, rows, columns, outputs} == y.dims;
  // Beyond this stride, which leaves one result, XLA serves.
  const bool serves =
      !wrong && sides_alone && fits(1, rows) && fits(2, columns) && stride <= size + std::max(height, width);
  if (!serves || !error.empty()) return serves == error.empty();
  std::vector<double> sums(result->size), sizes(result->size);
  for (int64_t n = 0; n < images; ++n)
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; ++c)
        for (int64_t i = 0; i < size; ++i)
          for (int64_t j = 0; j < size; ++j) {
            const int64_t v = r * stride + i - padding, u = c * stride + j - padding;
            if (v < 0 || v >= height || u < 0 || u >= width) continue;
            for (int64_t a = 0; a < inputs; ++a)
              for (int64_t o = 0; o < outputs; ++o) {
                if (a * groups / inputs != o * groups / outputs) continue;
                float* place[] = {&y.at(n, r, c, o), &x.at(n, v, u, a), &kernel.at(i, j, a % (inputs / groups), o)};
                float values[] = {*place[0], kind == 1 ? 0 : reading.of(*place[1], n, images, a), *place[2]};
                const double term = double(values[(kind + 1) % 3]) * values[(kind + 2) % 3];
                const int64_t to = place[kind] - result->data.get();
                sums[to] += term, sizes[to] += std::abs(term);
              }
          }
  for (int64_t i = 0; i < result->size; ++i) {
    if (ends) ending.apply(i, sums[i], sizes[i]);
    if (near(result->data[i], sums[i], sizes[i])) continue;
    std::printf("result %ld of %ld is %g, and should be %g\n", long(i), long(result->size), result->data[i], sums[i]);
    return false;
  }
  return true;
}

// Sums over rows, some of them with values that overflow; with one size changed, an error.
bool sums() {
  const int64_t groups = among(1, 3), rows = among(1, 3000) / among(1, 100) + 1, channels = multiple(8, 128);
  std::vector<int64_t> shape = {groups, rows, channels}, few = {groups, channels};
  const bool wrong = among(0, 4) == 0, extreme = among(0, 4) == 0;
  if (wrong) few[1] += among(0, 1) ? resnet_channels : -resnet_channels;
  Array x(shape), g(shape), mean(few), first(few), second(few);
  if (extreme) x.data[among(0, x.size - 1)] = among(0, 1) ? INFINITY : 3e38f;
  const bool both = among(0, 1), masked = both && among(0, 1);
  const std::vector<int64_t> of_mask = masked ? few : std::vector<int64_t>{0};
  Array scale(of_mask), offset(of_mask);
  const std::string error = both ? call(resnet_projections, {&g, &x, &mean, &scale, &offset}, {&first, &second})
                                 : call(resnet_moments, {&x}, {&first, &second});
  if (wrong || !error.empty()) return wrong && !error.empty();
  for (int64_t i = 0; i < groups * channels && !extreme; ++i) {
    const int64_t at = i / channels * rows * channels + i % channels;
    double sum = 0, size = 0, squares = 0, center = 0;
    for (int64_t r = 0; r < rows; ++r) center += x.data[at + r * channels] / double(rows);
    if (both) center = mean.data[i];
    for (int64_t r = 0; r < rows; ++r) {
      const double apart = x.data[at + r * channels] - center, other = both ? g.data[at + r * channels] : apart;
      if (masked && !(x.data[at + r * channels] * scale.data[i] + offset.data[i] > 0)) continue;
      sum += other, size += std::abs(other) + std::abs(other * apart), squares += other * apart;
    }
    if (!both) sum = center, squares /= rows;
    if (!near(first.data[i], sum, size + 1) || !near(second.data[i], squares, size + 1)) return false;
  }
  return true;
}

// A pass over images, or with one shape changed an error.
bool passes() {
  const bool combines = among(0, 1), masked = combines && among(0, 1), relu = among(0, 1), wrong = among(0, 4) == 0;
  const std::vector<int64_t> shape = {among(1, 3), among(1, 30), among(1, 30), multiple(8, 96)};
  const auto few = [&] { return of_channels(shape[0], shape[3]); };
  const std::vector<int64_t> of_mask = masked ? few() : std::vector<int64_t>{0, 0};
  Array first(shape), second(shape), rectified(shape), result(shape);
  Array scale(few()), second_scale(few()), offset(few()), slope(of_mask), start(of_mask);
  if (wrong) {
    Array* images[] = {&first, &second, &rectified};
    Array* channels[] = {&scale, &second_scale, &offset, &slope, &start};
    auto other = shape;
    other[among(0, 3)] += 16;
    if (!combines || among(0, 1)) *images[among(0, combines ? 1 : 2)] = Array(other);
    else *channels[among(0, 4)] = among(0, 1) ? Array({1, shape[3] + 16}) : Array({shape[0] + 1, shape[3]});
  }
  const std::pair<std::string, bool> rectifies{"relu", relu};
  const std::string error =
      combines ? call(resnet_combination, {&first, &second, &scale, &second_scale, &offset, &slope, &start}, {&result},
                      rectifies)
               : call(resnet_masked_sum, {&first, &second, &rectified}, {&result});
  if (wrong || !error.empty()) return wrong && !error.empty();
  for (int64_t i = 0; i < result.size; ++i) {
    const auto of = [&](const Array& values) { return of_image(values, i / (result.size / shape[0]), shape[0], i % shape[3]); };
    const double a = first.data[i], b = second.data[i];
    double sum = a + b, size = std::abs(a) + std::abs(b);
    bool kept = combines || rectified.data[i] > 0;
    if (combines) {
      if (masked && !(second.data[i] * of(slope) + of(start) > 0)) sum = 0, size = 0;
      else sum = a * of(scale), size = std::abs(sum);
      sum += b * of(second_scale) + of(offset);
      size += std::abs(b * of(second_scale)) + std::abs(of(offset));
      if (relu) sum = std::max(sum, 0.0);
    }
    if (!near(result.data[i], kept ? sum : 0, size)) return false;
  }
  return true;
}

}  // namespace

int main(int, char** arguments) {
  draw.seed(std::atoi(arguments[1]));
  for (int i = 0; i < std::atoi(arguments[2]); ++i) {
    const int64_t kind = among(0, 7);
    const bool right = kind < 2 ? sums() : kind == 2 ? passes() : convolution();
    if (right) continue;
    std::printf("case %d, a %s, is not what it should be\n", i,
                kind < 2 ? "sum" : kind == 2 ? "pass" : "convolution");
    return 1;
  }
  return 0;
}
