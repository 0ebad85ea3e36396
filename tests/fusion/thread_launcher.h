// For ThreadSanitizer: launchers that run the kernels on std::threads, which it understands; OpenMP's it does not.
//
// Items are dealt out in turn, so that neighbours run on different threads: ThreadSanitizer compares what threads do
// without being told to wait for each other, whenever they do it, and so finds each access that two items share.
#pragma once
#include "cuda_on_cpu.h"

#include <thread>
#include <vector>

namespace racing {

constexpr unsigned THREADS = 3;

template <typename... Arguments, std::size_t... I>
void launch(void (*kernel)(Arguments...), const unsigned* grid, const unsigned* block, void** arguments,
            std::index_sequence<I...>) {
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < THREADS; t++)
        threads.emplace_back([=] {
            gridDim = {grid[0], 1, 1}, blockDim = {block[0], 1, 1};
            for (unsigned item = t; item < grid[0] * block[0]; item += THREADS) {
                blockIdx = {item / block[0], 0, 0}, threadIdx = {item % block[0], 0, 0};
                kernel(*static_cast<Arguments*>(arguments[I])...);
            }
        });
    for (std::thread& thread : threads) thread.join();
}

template <typename... Arguments>
void launch(void (*kernel)(Arguments...), const unsigned* grid, const unsigned* block, void** arguments) {
    launch(kernel, grid, block, arguments, std::index_sequence_for<Arguments...>{});
}

}  // namespace racing

#undef LAUNCHER
#define LAUNCHER(kernel)                                                    \
    extern "C" __attribute__((visibility("default"))) void launch_##kernel( \
        const unsigned* grid, const unsigned* block, void** arguments) {    \
        racing::launch(kernel, grid, block, arguments);                     \
    }
