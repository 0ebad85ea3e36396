// Kernels that show what a device does with arguments, threads and memory: see device_checks.py.
#ifndef FACTOR
#define FACTOR 2
#endif

struct Small {
    unsigned char a, b, c;
};

struct Slice {
    const int* values;
    int count;
};

// Each kind of argument, after one that leaves the next on an odd address.
extern "C" __global__ void show_arguments(signed char a, double b, short c, Small small, Slice slice, float d,
                                          long long e, const int* null, double* out) {
    if (blockIdx.x * blockDim.x + threadIdx.x) return;
    out[0] = a, out[1] = b, out[2] = c, out[3] = small.a, out[4] = small.b, out[5] = small.c;
    out[6] = slice.values[slice.count - 1], out[7] = d, out[8] = (double)e, out[9] = null == nullptr;
}

extern "C" __global__ void visit(int* visits, int items) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < items) visits[i] += 1;
}

extern "C" __global__ void multiply(float* values, int items) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < items) values[i] *= FACTOR;
}

extern "C" __global__ void to_float(const __half* in, int items, float* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < items) out[i] = __half2float(in[i]);
}

extern "C" __global__ void to_half(const float* in, int items, __half* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < items) out[i] = __float2half_rn(in[i]);
}

// Would round once instead of twice if the compiler made one instruction of it.
extern "C" __global__ void multiply_add(const float* a, const float* b, const float* c, int items, float* out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < items) out[i] = a[i] * b[i] + c[i];
}

extern "C" __global__ void histogram(const int* values, int items, unsigned* counts, unsigned* bits,
                                     unsigned long long* largest) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= items) return;
    atomicAdd(&counts[values[i]], 1u);
    atomicOr(bits, 1u << values[i]);
    atomicMax(largest, (unsigned long long)values[i] << 32 | (unsigned)i);
}

// out[i] = in[0] + ... + in[i], by one block: every thread adds up its share and waits for the others' sums.
extern "C" __global__ void running_sum(const int* in, int items, int* out) {
    __shared__ int sums[1024];
    const int share = (items + blockDim.x - 1) / blockDim.x;
    const int begin = min((int)threadIdx.x * share, items), end = min(begin + share, items);
    int sum = 0;
    for (int i = begin; i < end; i++) sum += in[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    int before = 0;
    for (unsigned t = 0; t < threadIdx.x; t++) before += sums[t];
    for (int i = begin; i < end; i++) out[i] = before += in[i];
}
