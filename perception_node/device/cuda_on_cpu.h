// Lets CUDA C++ kernels compile as C++ for the CPU: the words of the language, and launchers.
//
// device/cpu.py makes a file that includes this, then the kernels, then LAUNCHER(name) for each kernel. A launcher takes
// what cuLaunchKernel takes: sizes, and an array of pointers to the arguments. Blocks run in parallel (OpenMP), the
// threads of a block one after the other; so a kernel with __syncthreads() must be launched with one thread a block.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

using std::abs;
using std::max;
using std::min;

#define __global__
#define __device__
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __shared__ static thread_local

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

#ifndef CUDA_ON_CPU_SYNCTHREADS
inline void __syncthreads() {}
#else
void __syncthreads();
#endif

inline float __int_as_float(int bits) { return __builtin_bit_cast(float, bits); }
inline unsigned __float_as_uint(float value) { return __builtin_bit_cast(unsigned, value); }
inline int __float_as_int(float value) { return __builtin_bit_cast(int, value); }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs((int)bits); }
inline int __clz(int bits) { return bits ? __builtin_clz((unsigned)bits) : 32; }

template <typename T>
inline T atomicAdd(T* address, std::common_type_t<T> value) {
    return __atomic_fetch_add(address, value, __ATOMIC_RELAXED);
}
template <typename T>
inline T atomicOr(T* address, std::common_type_t<T> value) {
    return __atomic_fetch_or(address, value, __ATOMIC_RELAXED);
}
template <typename T>
inline T atomicAnd(T* address, std::common_type_t<T> value) {
    return __atomic_fetch_and(address, value, __ATOMIC_RELAXED);
}
template <typename T>
inline T atomicMax(T* address, std::common_type_t<T> value) {
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
template <typename T>
inline T atomicMin(T* address, std::common_type_t<T> value) {
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (old > value && !__atomic_compare_exchange_n(address, &old, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
template <typename T>
inline T atomicCAS(T* address, std::common_type_t<T> compare, std::common_type_t<T> value) {
    __atomic_compare_exchange_n(address, &compare, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    return compare;
}

struct __half {
    std::uint16_t bits;
};

inline float __half2float(__half half) {
#if defined(__F16C__)
    return __builtin_ia32_vcvtph2ps((__attribute__((vector_size(16))) short){(short)half.bits})[0];
#elif defined(__aarch64__)
    return __builtin_bit_cast(__fp16, half.bits);
#else
    const unsigned sign = (half.bits & 0x8000u) << 16, rest = half.bits & 0x7fffu;
    if (rest >= 0x7c00u) return __builtin_bit_cast(float, sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    // Shifted into place the exponent is 112 too small; the product also makes denormals right.
    return __builtin_bit_cast(float, sign | __builtin_bit_cast(unsigned, __builtin_bit_cast(float, rest << 13) * 0x1p112f));
#endif
}

inline __half __float2half_rn(float value) {
#if defined(__F16C__)
    return {(std::uint16_t)__builtin_ia32_vcvtps2ph((__attribute__((vector_size(16))) float){value}, 0)[0]};
#elif defined(__aarch64__)
    return {__builtin_bit_cast(std::uint16_t, (__fp16)value)};
#else
    const unsigned bits = __builtin_bit_cast(unsigned, value), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    unsigned half;
    if (rest >= 0x47800000u)  // 65536, infinity, NaN
        half = rest > 0x7f800000u ? 0x7e00u : 0x7c00u;
    else if (rest < 0x38800000u)  // denormal: the sum's last bit is worth 2^-24
        half = __builtin_bit_cast(unsigned, __builtin_bit_cast(float, rest) + 0.5f) - 0x3f000000u;
    else  // 13 bits fewer, ties to even, and the exponent 112 smaller
        half = (rest - (112u << 23) + 0xfffu + (rest >> 13 & 1u)) >> 13;
    return {(std::uint16_t)(sign | half)};
#endif
}

namespace cuda_on_cpu {

template <typename... Arguments, std::size_t... I>
void launch(void (*kernel)(Arguments...), dim3 grid, dim3 block, void** arguments, std::index_sequence<I...>) {
    const long blocks = (long)grid.x * grid.y * grid.z;
    const long share = min(16L, 1 + blocks / 64);  // little to hand out, yet enough shares for every core
#pragma omp parallel for schedule(dynamic, share) if (blocks >= 16)  // fewer are done before the others wake
    for (long b = 0; b < blocks; b++) {
        gridDim = grid, blockDim = block;
        blockIdx = {unsigned(b % grid.x), unsigned(b / grid.x % grid.y), unsigned(b / grid.x / grid.y)};
        for (unsigned z = 0; z < block.z; z++)
            for (unsigned y = 0; y < block.y; y++)
                for (unsigned x = 0; x < block.x; x++) {
                    threadIdx = {x, y, z};
                    kernel(*static_cast<Arguments*>(arguments[I])...);
                }
    }
}

template <typename... Arguments>
void launch(void (*kernel)(Arguments...), const unsigned* grid, const unsigned* block, void** arguments) {
    launch(kernel, dim3{grid[0], grid[1], grid[2]}, dim3{block[0], block[1], block[2]}, arguments,
           std::index_sequence_for<Arguments...>{});
}

}  // namespace cuda_on_cpu

#define LAUNCHER(kernel)                                                                               \
    extern "C" __attribute__((visibility("default"))) void launch_##kernel(                            \
        const unsigned* grid, const unsigned* block, void** arguments) {                               \
        cuda_on_cpu::launch(kernel, grid, block, arguments);                                           \
    }
