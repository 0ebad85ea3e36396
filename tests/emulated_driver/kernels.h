// Runs CUDA C++ kernels, compiled for the host, as a GPU would: blocks of many threads, with barriers, arguments from a
// buffer as cuLaunchKernel gets it. The file `nvcc` beside this makes a shared library of the kernels with it.
//
// A thread that meets no barrier is a plain call. One that meets one leaves its fiber waiting there; all threads of the
// block run until they wait, then all go on. Unlike on a GPU the order is known, and can be changed: see Order.
#pragma once

#define CUDA_ON_CPU_SYNCTHREADS
#include "cuda_on_cpu.h"

#include <ucontext.h>

#include <array>
#include <memory>
#include <numeric>
#include <vector>

namespace emulated {

// In which order blocks, and threads between barriers, run: 0 as numbered, 1 backwards, others shuffled by that seed.
inline std::vector<unsigned> order(unsigned count, unsigned seed) {
    std::vector<unsigned> indices(count);
    std::iota(indices.begin(), indices.end(), 0u);
    for (unsigned i = count; seed == 1 && i-- > count / 2;) std::swap(indices[i], indices[count - 1 - i]);
    std::uint64_t state = seed;
    for (unsigned i = count; seed > 1 && i-- > 1;) {
        state = state * 6364136223846793005u + 1442695040888963407u;  // Knuth's linear congruential generator
        std::swap(indices[i], indices[(state >> 33) % (i + 1)]);
    }
    return indices;
}

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    unsigned thread;
    bool waits;
};

class Block {
public:
    // Runs `body` once for each thread. False if some threads ended while others wait at a barrier.
    template <typename Body>
    bool run(dim3 block, unsigned seed, Body body) {
        body_ = [](void* b) { (*static_cast<Body*>(b))(); };
        argument_ = &body, block_ = block;
        threads_ = order(block.x * block.y * block.z, seed), started_ = 0;
        std::vector<Fiber*> waiting;
        for (unsigned used = 0; started_ < threads_.size();) {
            if (used == fibers_.size()) add_fiber();
            Fiber* const fiber = fibers_[used].get();
            resume(fiber);
            if (fiber->waits) waiting.push_back(fiber), used++;
        }
        bool together = true;
        while (!waiting.empty()) {
            together &= waiting.size() == threads_.size();
            std::vector<Fiber*> next;
            for (unsigned i : order(waiting.size(), seed)) {
                resume(waiting[i]);
                if (waiting[i]->waits) next.push_back(waiting[i]);
            }
            together &= next.empty() || next.size() == waiting.size();
            waiting = next;
        }
        return together;
    }

    void wait() {
        current_->waits = true;
        swapcontext(&current_->context, &scheduler_);
        enter(current_->thread);
    }

private:
    void resume(Fiber* fiber) {
        current_ = fiber, fiber->waits = false;
        swapcontext(&scheduler_, &fiber->context);
    }

    void enter(unsigned thread) {
        current_->thread = thread;
        threadIdx = {thread % block_.x, thread / block_.x % block_.y, thread / block_.x / block_.y};
    }

    void add_fiber() {
        constexpr std::size_t size = 128 << 10;
        auto fiber = std::make_unique<Fiber>();
        fiber->stack.reset(new char[size]);
        getcontext(&fiber->context);
        fiber->context.uc_stack.ss_sp = fiber->stack.get(), fiber->context.uc_stack.ss_size = size;
        fiber->context.uc_link = nullptr;
        makecontext(&fiber->context, start, 0);
        fibers_.push_back(std::move(fiber));
    }

    static void start();

    // What a fiber does: threads that have not started, until there are none, again and again.
    void run_threads() {
        for (;;) {
            while (started_ < threads_.size()) {
                enter(threads_[started_++]);
                body_(argument_);
            }
            current_->waits = false;
            swapcontext(&current_->context, &scheduler_);
        }
    }

    void (*body_)(void*);
    void* argument_;
    dim3 block_;
    std::vector<unsigned> threads_;
    std::size_t started_;
    std::vector<std::unique_ptr<Fiber>> fibers_;
    ucontext_t scheduler_;
    Fiber* current_;
};

inline thread_local Block block;

inline void Block::start() { block.run_threads(); }

// Where a kernel's parameters lie in the buffer of arguments: each at a multiple of its alignment; last the size.
template <typename... Arguments>
std::array<std::size_t, sizeof...(Arguments) + 1> layout() {
    constexpr std::size_t n = sizeof...(Arguments);
    const std::size_t sizes[n + 1] = {sizeof(Arguments)...}, alignments[n + 1] = {alignof(Arguments)...};
    std::array<std::size_t, n + 1> offsets{};
    std::size_t end = 0;
    for (std::size_t i = 0; i < n; i++) {
        offsets[i] = (end + alignments[i] - 1) / alignments[i] * alignments[i];
        end = offsets[i] + sizes[i];
    }
    offsets[n] = end;
    return offsets;
}

template <typename... Arguments, std::size_t... I>
bool run(void (*kernel)(Arguments...), dim3 grid, dim3 threads, char* arguments, unsigned seed,
         std::index_sequence<I...>) {
    const auto offsets = layout<Arguments...>();
    bool together = true;
    for (unsigned b : order(grid.x * grid.y * grid.z, seed)) {
        gridDim = grid, blockDim = threads;
        blockIdx = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
        together &= block.run(
            threads, seed, [&] { kernel(*reinterpret_cast<Arguments*>(arguments + offsets[I])...); });
    }
    return together;
}

template <typename... Arguments>
bool run(void (*kernel)(Arguments...), const unsigned* grid, const unsigned* threads, char* arguments, unsigned seed) {
    return run(kernel, {grid[0], grid[1], grid[2]}, {threads[0], threads[1], threads[2]}, arguments, seed,
               std::index_sequence_for<Arguments...>{});
}

template <typename... Arguments>
std::size_t arguments_size(void (*)(Arguments...)) {
    return layout<Arguments...>().back();
}

}  // namespace emulated

inline void __syncthreads() { emulated::block.wait(); }

// What the emulated driver looks up: the size of the kernel's arguments, and how to run it.
#define EMULATED_EXPORT extern "C" __attribute__((visibility("default")))
#define EMULATED_KERNEL(kernel)                                                                       \
    EMULATED_EXPORT std::size_t emulated_size_##kernel() { return emulated::arguments_size(kernel); } \
    EMULATED_EXPORT bool emulated_run_##kernel(const unsigned* grid, const unsigned* threads,         \
                                               char* arguments, unsigned seed) {                      \
        return emulated::run(kernel, grid, threads, arguments, seed);                                 \
    }
