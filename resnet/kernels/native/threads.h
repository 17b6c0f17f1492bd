// What all kernels are made of: vectors, memory, threads.
#pragma once

#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

// Floats of a register, and registers that hold sums: as many as hide the latency of an addition, and leave
// room for what is added. Where registers hold 16 floats, half of one serves channels that come in multiples of 8 only:
// all is compiled once more for them.
#if defined(__AVX512F__) && !defined(RESNET_NARROW)
constexpr int kLanes = 16, kSums = 16;
#elif defined(__AVX512F__)
constexpr int kLanes = 8, kSums = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8, kSums = 12;
#else
constexpr int kLanes = 4, kSums = 16;
#endif
constexpr int64_t kTerms = 256;  // of a sum in float32 that are added up in one go
// Floats that a cache holds beside others: most of a first-level one, half of a second-level one, and what threads share.
constexpr int64_t kFirstLevel = 1 << 13, kSecondLevel = 1 << 16, kThirdLevel = 1 << 20;
constexpr size_t kLine = 64;  // bytes

typedef float Vector __attribute__((vector_size(kLanes * sizeof(float)), aligned(sizeof(float)), may_alias));
Vector load(const float* p) { return *reinterpret_cast<const Vector*>(p); }
void store(float* p, Vector v) { *reinterpret_cast<Vector*>(p) = v; }
// The values where what a ReLU takes or gives is positive, else zero: its derivative times them.
inline Vector where_positive(Vector rectified, Vector values) { return rectified > Vector{} ? values : Vector{}; }
inline Vector relu(Vector v) { return v < Vector{} ? Vector{} : v; }  // NaN stays

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Uninitialised memory for floats, from the beginning of a cache line on. It grows, and never shrinks.
class Memory {
 public:
  float* floats(int64_t count) {
    if (count > count_) {
      count_ = 0;  // should the next line throw
      floats_.reset(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t(kLine))));
      count_ = count;
    }
    return floats_.get();
  }

 private:
  struct Delete {
    void operator()(float* floats) const { ::operator delete(floats, std::align_val_t(kLine)); }
  };
  std::unique_ptr<float, Delete> floats_;
  int64_t count_ = 0;
};

thread_local Memory of_this_thread;

// The processor that runs this thread.
int64_t processor() {
#ifdef __linux__
  return std::max(0, sched_getcpu());
#else
  return 0;
#endif
}

// Runs task(0) to task(tasks - 1) on the caller and on threads of the pool. Each processor begins with the same tasks in
// every call, because its caches may hold their data, and then takes over those of others. The caller waits only for tasks
// that a thread has begun, so a busy pool cannot block it. It throws what a task threw, when all are done.

template <typename Task>
void share(ffi::ThreadPool& pool, int64_t tasks, const Task& task) {
  struct alignas(kLine) Counter {
    std::atomic<int64_t> next;
  };
  struct Progress {
    std::vector<Counter> parts;
    alignas(kLine) std::atomic<int64_t> done{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // of the first task that failed; read when all are done
  };
  const int64_t threads = std::max<int64_t>(1, std::min(tasks, pool.num_threads()));
  auto progress = std::make_shared<Progress>();  // a helper may come when all is done, and `task` gone
  progress->parts = std::vector<Counter>(threads);
  for (int64_t part = 0; part < threads; ++part) progress->parts[part].next = part * tasks / threads;
  auto work = [progress, tasks, threads, &task] {
    const int64_t first = processor();
    for (int64_t own = first; own < first + threads; ++own) {
      const int64_t part = own % threads, end = (part + 1) * tasks / threads;
      for (int64_t i; (i = progress->parts[part].next++) < end;) {
        try {
          task(i);
        } catch (...) {
          if (!progress->failed.exchange(true)) progress->error = std::current_exception();
        }
        if (++progress->done == tasks) progress->done.notify_all();
      }
    }
  };
  try {
    for (int64_t n = threads; n > 1; --n) pool.Schedule(decltype(work)(work));
  } catch (...) {  // Without memory for more helpers, those there are serve: they still read `task`.
  }
  work();
  for (int64_t done; (done = progress->done) < tasks;) progress->done.wait(done);
  if (progress->error) std::rethrow_exception(progress->error);
}

// What f returns, or the error that stands for what it throws: XLA takes no exceptions.
template <typename F>
ffi::Error guarded(const F& f) {
  try {
    return f();
  } catch (const std::exception& error) {
    return ffi::Error::Internal(error.what());
  } catch (...) {
    return ffi::Error::Internal("an exception of an unknown kind");
  }
}

// "(2, 3)"
template <typename Dimensions>
std::string text(const Dimensions& dimensions) {
  std::string list;
  for (int64_t n : dimensions) list += (list.empty() ? "" : ", ") + std::to_string(n);
  return "(" + list + ")";
}

// Whether all buffers have the shape of the first. Adds their shapes to `shapes`, for an error to name them.
template <typename Buffers>
bool alike(const Buffers& buffers, std::string& shapes) {
  const auto first = buffers.begin()->dimensions();
  bool same = true;
  for (auto buffer : buffers) {
    const auto shape = buffer.dimensions();
    same = same && std::equal(first.begin(), first.end(), shape.begin(), shape.end());
    shapes += " " + text(shape);
  }
  return same;
}

}  // namespace
