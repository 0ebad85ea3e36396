// What every family's kernels share: sampling of low-resolution planes, softmax, segment statistics.
//
// Plain CUDA C++ that also compiles as C++ for the CPU (device/cuda_on_cpu.h). Compiled once for each configuration:
//   LOGIT  float or __half: the element type of the network's outputs
//   TILE   side in pixels of the square that one thread works on: 8, 4, 2 or 1; see sampling.py. It changes no bit.
//   RUN    tiles side by side that one thread classifies: 1, or more where it makes vectors of them. It changes no bit.
//   STRIPES  copies of contended counters; the threads of neighbouring blocks share one
//
// Names: C classes, h x w the network's output resolution, H x W the image's, tiles = rows.tiles * columns.tiles.
// All arithmetic is IEEE float32, fused only where it says fmaf, so that every device gives the same bits.
#pragma once

#ifndef LOGIT
#define LOGIT float
#endif
#ifndef TILE
#define TILE 4
#endif
#ifndef RUN
#define RUN 1
#endif
#ifndef STRIPES
#define STRIPES 16
#endif

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef unsigned long long uint64;

constexpr int UNLABELLED = 255;
constexpr int LANES = TILE * TILE;  // pixels of a tile; lane = y * TILE + x
constexpr int STRIP = 256;          // pixels of one row that a thread of the last kernel finishes
constexpr int CELLS = 7;            // side of a block in cells; a cell is what lies between four samples

// How one axis of the image samples the network's outputs; from perception_node/fusion/sampling.py.
struct Axis {
    const int* low;       // (pixels,) index of the sample before the pixel; the one after is low + 1, clamped
    const float* weight;  // (pixels,) of the sample after
    const int* start;     // (tiles + 1,) first pixel of each tile; all pixels of a tile have the same `low`
    const int* run;       // (runs + 1,) first tile of each run; all tiles of a run are in one block (see shortlists)
    int pixels, samples, tiles, runs;
};

// One segment's measures. All start at zero and only grow, so that clearing is one memset and merging is order-free.
struct Measure {
    uint64 confidence, x, y;  // sums over the pixels
    uint32 area;
    uint32 left, top;         // W - x0 and H - y0: the box's origin, measured from the far corner
    uint32 right, bottom;     // x1 and y1, exclusive
    uint32 padding;
};

// ---- numbers ----

__device__ inline float number(float value) { return value; }
__device__ inline float number(__half value) { return __half2float(value); }

// As one instruction each; of NaN they make what they like.
__device__ inline float lesser(float a, float b) { return a < b ? a : b; }
__device__ inline float greater(float a, float b) { return a > b ? a : b; }

// e^x for x <= 0: Cody-Waite reduction and a polynomial of degree 6 (as in Cephes' expf, 1988). Below -87 it stays at
// e^-87; so does NaN. Of our own because the libraries' differ in the last bit between CPU and GPU.
__device__ inline float exponential(float x) {
    x = x > -87.0f ? x : -87.0f;
    const float n = floorf(x * 1.44269504f + 0.5f);
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * (r * r) + r + 1.0f) * __int_as_float(((int)n + 127) << 23);
}

// e^x for x <= 0 with an error below 2e-4 of it, none at 0: enough for a confidence of 8 bits. Below -86 it stays at
// e^-86; so does NaN. Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits; it becomes the
// exponent, and a minimax polynomial makes the rest.
__device__ inline float rough_exponential(float x) {
    x = greater(x, -86.0f) * 1.44269504f;
    const float n = x + 12582912.0f, r = x - (n - 12582912.0f);
    const float p = fmaf(fmaf(fmaf(0.055009058f, r, 0.242210975f), r, 0.693282898f), r, 1.0f);
    return __int_as_float(__float_as_int(p) + (int)(__float_as_uint(n) << 23));
}

__device__ inline float sigmoid(float x) {
    const float e = exponential(-fabsf(x));
    const float p = 1.0f / (1.0f + e), value = x >= 0.0f ? p : e * p;
    return x == x ? value : x;
}

// Floats as integers in the same order; NaN is not expected.
__device__ inline uint32 ordered(float value) {
    const uint32 bits = __float_as_uint(value + 0.0f);  // -0 becomes 0
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// ---- sampling: bilinear, half-pixel centres, edges clamped (align_corners=False) ----

// At most TILE x TILE pixels between the same four samples.
struct Tile {
    int y, x, height, width;  // in the image
    int row, column;          // of the upper left sample
    int corner[4];            // offsets into a plane: upper left, upper right, lower left, lower right
};

__device__ inline Tile tile_at(const Axis& rows, const Axis& columns, int index) {
    Tile tile;
    const int row = index / columns.tiles, column = index - row * columns.tiles;
    tile.y = rows.start[row], tile.x = columns.start[column];
    tile.height = rows.start[row + 1] - tile.y, tile.width = columns.start[column + 1] - tile.x;
    const int y0 = tile.row = rows.low[tile.y], y1 = y0 + 1 < rows.samples ? y0 + 1 : y0;
    const int x0 = tile.column = columns.low[tile.x], x1 = x0 + 1 < columns.samples ? x0 + 1 : x0;
    tile.corner[0] = y0 * columns.samples + x0, tile.corner[1] = y0 * columns.samples + x1;
    tile.corner[2] = y1 * columns.samples + x0, tile.corner[3] = y1 * columns.samples + x1;
    return tile;
}

// Of the samples below and to the right, for each row and column of a tile; beyond its end they repeat the last.
struct Weights {
    float down[LANES], right[LANES];
};

__device__ inline Weights weights_of(const Tile& tile, const Axis& rows, const Axis& columns) {
    Weights weight;
    for (int i = 0; i < TILE; i++) {
        const float down = rows.weight[tile.y + (i < tile.height ? i : tile.height - 1)];
        const float right = columns.weight[tile.x + (i < tile.width ? i : tile.width - 1)];
        for (int j = 0; j < TILE; j++) weight.down[i * TILE + j] = down, weight.right[j * TILE + i] = right;
    }
    return weight;
}

struct Corners {
    float value[4];
    __device__ float low() const { return lesser(lesser(value[0], value[1]), lesser(value[2], value[3])); }
    __device__ float high() const { return greater(greater(value[0], value[1]), greater(value[2], value[3])); }
    // 0 where no value is NaN or infinite, so that all values between them lie between low() and high().
    __device__ float check() const {
        const float sum = (value[0] + value[1]) + (value[2] + value[3]);
        return sum - sum;
    }
    __device__ bool finite() const { return check() == 0.0f; }
};

template <typename T>
__device__ inline Corners corners(const T* __restrict__ plane, const Tile& tile) {
    return {number(plane[tile.corner[0]]), number(plane[tile.corner[1]]), number(plane[tile.corner[2]]),
            number(plane[tile.corner[3]])};
}

// The values of all pixels of a tile. The order of operations is that of the oracles: across, then down.
__device__ inline void interpolate(const Corners& c, const Weights& weight, float out[LANES]) {
    for (int i = 0; i < LANES; i++) {
        const float upper = c.value[0] * (1.0f - weight.right[i]) + c.value[1] * weight.right[i];
        const float lower = c.value[2] * (1.0f - weight.right[i]) + c.value[3] * weight.right[i];
        out[i] = upper * (1.0f - weight.down[i]) + lower * weight.down[i];
    }
}

template <typename T>
__device__ inline void write_tile(T* __restrict__ map, const T values[LANES], const Tile& tile, int width) {
    T* const out = map + tile.y * width + tile.x;
    const bool whole = tile.height == TILE && tile.width == TILE;
    for (int y = 0; y < TILE; y++) {
        for (int x = 0; x < TILE; x++)
            if (whole || (y < tile.height && x < tile.width)) out[y * width + x] = values[y * TILE + x];
    }
}

// The value of one pixel.
template <typename T>
__device__ inline float sample(const T* __restrict__ plane, const Axis& rows, const Axis& columns, int y, int x) {
    const int y0 = rows.low[y], y1 = y0 + 1 < rows.samples ? y0 + 1 : y0;
    const int x0 = columns.low[x], x1 = x0 + 1 < columns.samples ? x0 + 1 : x0;
    const float down = rows.weight[y], right = columns.weight[x];
    const T *upper = plane + y0 * columns.samples, *lower = plane + y1 * columns.samples;
    const float a = number(upper[x0]) * (1.0f - right) + number(upper[x1]) * right;
    const float b = number(lower[x0]) * (1.0f - right) + number(lower[x1]) * right;
    return a * (1.0f - down) + b * down;
}

// What rounding can add to an interpolated value beyond its corners.
__device__ inline float slack(float value) { return 2e-6f * fabsf(value); }

// ---- work items ----

// A value that another thread may change meanwhile.
#ifdef __CUDACC__
__device__ inline uint32 atomic_load(const uint32* address) { return *(const volatile uint32*)address; }
__device__ inline void atomic_store(uint32* address, uint32 value) { *(volatile uint32*)address = value; }
#else
inline uint32 atomic_load(const uint32* address) { return __atomic_load_n(address, __ATOMIC_RELAXED); }
inline void atomic_store(uint32* address, uint32 value) { __atomic_store_n(address, value, __ATOMIC_RELAXED); }
#endif

__device__ inline int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

// Which copy of the contended counters this thread adds to.
__device__ inline int stripe() { return (int)((uint64)blockIdx.x * STRIPES / gridDim.x); }

// Sum of `own` over the threads of the block that come before this one; `total` gets the sum over all. At most 1024.
__device__ inline uint32 sum_before(uint32 own, uint32& total) {
    __shared__ uint32 sums[1024];
    __syncthreads();
    sums[threadIdx.x] = own;
    __syncthreads();
    uint32 before = 0;
    total = 0;
    for (uint32 i = 0; i < blockDim.x; i++) {
        before += i < threadIdx.x ? sums[i] : 0;
        total += sums[i];
    }
    return before;
}

// ---- shortlists: of many planes few matter in a place; which, is found out once for a block of cells ----

// Between which values a plane's samples lie; infinite where one of them is NaN or infinite.
struct Range {
    float low, high;
};

__device__ inline int blocks_of(int samples) { return (samples + CELLS - 1) / CELLS; }

__device__ inline int block_of(const Axis& columns, const Tile& tile) {
    return tile.row / CELLS * blocks_of(columns.samples) + tile.column / CELLS;
}

// Of rows top to bottom and columns left to right, both included, and perhaps of columns beside them.
template <typename T>
__device__ inline Range range(const T* __restrict__ plane, int width, int top, int bottom, int left, int right) {
    constexpr int N = 8;  // side by side
    float low[N], high[N], check[N];
    for (int i = 0; i < N; i++) low[i] = INFINITY, high[i] = -INFINITY, check[i] = 0.0f;
    for (int x = left; x <= right; x += N) {
        const int begin = x + N <= width ? x : width - N;
        for (int y = top; y <= bottom; y++) {
            const T* const row = plane + y * width;
            for (int i = 0; i < N; i++) {
                const float value = number(width < N ? row[i < width ? i : 0] : row[begin + i]);
                low[i] = lesser(value, low[i]), high[i] = greater(value, high[i]), check[i] += value - value;
            }
        }
    }
    for (int i = 1; i < N; i++) low[0] = lesser(low[i], low[0]), high[0] = greater(high[i], high[0]), check[0] += check[i];
    if (check[0] == 0.0f) return {low[0], high[0]};
    return {-INFINITY, INFINITY};
}

// The ranges of planes in all blocks.
//   planes (N, h, w) LOGIT; slots (N,) int32 and count (1,) uint32: which planes, or null for all
//   ranges (blocks, N); one thread for each plane of each block; reads the planes 1.3 times, for blocks share borders
extern "C" __global__ void survey(const LOGIT* __restrict__ planes, const int* __restrict__ slots,
                                  const uint32* __restrict__ count, int n, Axis rows, Axis columns,
                                  Range* __restrict__ ranges) {
    const int across = blocks_of(columns.samples), blocks = blocks_of(rows.samples) * across;
    const int index = thread_index(), s = index / blocks, block = index - s * blocks;
    if (s >= (slots ? (int)*count : n)) return;
    const LOGIT* const plane = planes + (slots ? slots[s] : s) * rows.samples * columns.samples;
    const int top = block / across * CELLS, left = block % across * CELLS;
    ranges[block * n + s] = range(plane, columns.samples, top, min(top + CELLS, rows.samples - 1), left,
                                    min(left + CELLS, columns.samples - 1));
}

// ---- classes ----

// The classes that can win in a block, then those that can, by `cutoff`, add to a pixel's softmax what a byte could show.
//   ranges (blocks, C); list (blocks, C) uint16, both parts in order; length (blocks, 2) int32: of the first part, of all
//   one thread for each block
extern "C" __global__ void shortlist_classes(const Range* __restrict__ ranges, int classes, int blocks, float cutoff,
                                             uint16* __restrict__ list, int* __restrict__ length) {
    const int block = thread_index();
    if (block >= blocks) return;
    const Range* const own = ranges + block * classes;
    float floor_ = classes == 1 ? 0.0f : -INFINITY, high = -INFINITY;
    for (int c = 0; c < classes; c++) floor_ = greater(own[c].low, floor_), high = greater(own[c].high, high);
    if (!(high < INFINITY)) floor_ = -INFINITY;  // NaN or an infinity somewhere: leave nothing out
    const float bar = floor_ - slack(floor_);
    int n = 0;
    for (int c = 0; c < classes; c++)
        if (own[c].high >= bar) list[block * classes + n++] = c;
    length[2 * block] = n;
    for (int c = 0; c < classes; c++)
        if (own[c].high < bar && own[c].high >= floor_ - cutoff) list[block * classes + n++] = c;
    length[2 * block + 1] = n;
}

// Neighbouring tiles of a row of tiles, as one: pixels between two rows of samples.
struct Run {
    int y, x, height, width;  // in the image
    int first, tiles;
    int upper, lower;         // offsets of the rows of samples into a plane
};

constexpr int PITCH = RUN * TILE;                 // lane of a run = y * PITCH + x
constexpr int VECTOR = PITCH < 16 ? PITCH : 16;   // lanes that are worked on as one

// The values in the two rows of samples for each column of a run: the first half of `interpolate`. With room for a tile.
struct Across {
    float upper[PITCH + TILE], lower[PITCH + TILE];
};

__device__ inline Run run_at(const Axis& rows, const Axis& columns, int index) {
    Run run;
    const int row = index / columns.runs, *const tiles = columns.run + (index - row * columns.runs);
    run.first = tiles[0], run.tiles = RUN == 1 ? 1 : tiles[1] - tiles[0];
    run.y = rows.start[row], run.height = rows.start[row + 1] - run.y;
    run.x = columns.start[tiles[0]], run.width = columns.start[tiles[1]] - run.x;
    const int low = rows.low[run.y];
    run.upper = low * columns.samples;
    run.lower = low + 1 < rows.samples ? run.upper + columns.samples : run.upper;
    return run;
}

template <typename T>
__device__ inline void across(const T* __restrict__ plane, const Axis& columns, const Run& run,
                              const float right[PITCH + TILE], Across& out) {
    for (int t = 0; t < run.tiles; t++) {  // what one writes beyond its end the next one overwrites
        const int start = RUN == 1 ? 0 : columns.start[run.first + t] - run.x;
        const int x0 = columns.low[run.x + start], x1 = x0 + 1 < columns.samples ? x0 + 1 : x0;
        const float a = number(plane[run.upper + x0]), b = number(plane[run.upper + x1]);
        const float c = number(plane[run.lower + x0]), d = number(plane[run.lower + x1]);
        for (int i = start; i < start + TILE; i++) {
            out.upper[i] = a * (1.0f - right[i]) + b * right[i];
            out.lower[i] = c * (1.0f - right[i]) + d * right[i];
        }
    }
}

// Logits -> class and confidence of each pixel, and each class's area.
//   semantic (C, h, w) LOGIT; class_map, confidence (H, W) uint8; area (STRIPES, 256) uint32, zeroed
//   list, length: the blocks' shortlists; one thread for each run of tiles; reads what is listed of semantic once
//   (neighbours' corners and the second look from cache), writes 2 bytes a pixel
// With C = 1 the other answer is "unlabelled", at logit 0: sigmoid > 0.5. NaN never wins; where nothing does, the pixel
// is unlabelled.
extern "C" __global__ void classify(const LOGIT* __restrict__ semantic, int classes, Axis rows, Axis columns,
                                    const uint16* __restrict__ list, const int* __restrict__ length,
                                    uint8* __restrict__ class_map, uint8* __restrict__ confidence,
                                    uint32* __restrict__ area) {
    const int index = thread_index();
    if (index >= rows.tiles * columns.runs) return;
    const Run run = run_at(rows, columns, index);
    const int plane = rows.samples * columns.samples;
    const int block = rows.low[run.y] / CELLS * blocks_of(columns.samples) + columns.low[run.x] / CELLS;
    const int winners = length[2 * block], listed = length[2 * block + 1];
    list += block * classes;
    // On a GPU all lanes, for they are registers; else those that there are.
    const int height = RUN == 1 ? TILE : run.height, width = RUN == 1 ? PITCH : run.width;

    float down[TILE], right[PITCH + TILE];
    for (int i = 0; i < TILE; i++) down[i] = rows.weight[run.y + min(i, run.height - 1)];
    for (int i = 0; i < PITCH + TILE; i++) right[i] = columns.weight[run.x + min(i, run.width - 1)];
    Across value = {};  // what lies beyond the run is computed too; as denormals it would be slow
    float best[TILE * PITCH], total[TILE * PITCH];
    int label[TILE * PITCH];
    for (int i = 0; i < height * PITCH; i++) best[i] = classes == 1 ? 0.0f : -INFINITY, label[i] = UNLABELLED;
    for (int k = 0; k < winners; k++) {
        const int c = list[k];
        across(semantic + c * plane, columns, run, right, value);
        for (int y = 0; y < height; y++)
            for (int x0 = 0; x0 < width; x0 += VECTOR)
                for (int x = x0; x < x0 + VECTOR; x++) {
                    const int i = y * PITCH + x;
                    const float logit = value.upper[x] * (1.0f - down[y]) + value.lower[x] * down[y];
                    const bool wins = logit > best[i];
                    best[i] = wins ? logit : best[i];
                    label[i] = wins ? c : label[i];
                }
    }
    for (int i = 0; i < height * PITCH; i++) total[i] = classes == 1 ? rough_exponential(-best[i]) : 0.0f;
    for (int k = 0; k < listed; k++) {
        across(semantic + list[k] * plane, columns, run, right, value);
        for (int y = 0; y < height; y++)
            for (int x0 = 0; x0 < width; x0 += VECTOR)
                for (int x = x0; x < x0 + VECTOR; x++) {
                    const float logit = value.upper[x] * (1.0f - down[y]) + value.lower[x] * down[y];
                    total[y * PITCH + x] += rough_exponential(logit - best[y * PITCH + x]);
                }
    }
    for (int y = 0; y < height; y++) {
        const uint64 row = (uint64)(run.y + y) * columns.pixels + run.x;
        for (int x = 0; x < width; x++) {
            if (y >= run.height || x >= run.width) continue;
            const int i = y * PITCH + x;
            class_map[row + x] = label[i];
            confidence[row + x] = label[i] == UNLABELLED ? 0 : (uint8)(int)(255.0f / greater(total[i], 1.0f) + 0.5f);
        }
    }
    uint32* const areas = area + stripe() * 256;
    for (int k = 0; k < winners; k++) {
        int count = 0;
        for (int y = 0; y < height; y++)
            for (int x = 0; x < width; x++)
                count += y < run.height && x < run.width && label[y * PITCH + x] == list[k];
        if (count) atomicAdd(&areas[list[k]], count);
    }
}

// Total of each class's area.  area (STRIPES, 256) uint32 -> (256,) in its first row; one thread for each class.
extern "C" __global__ void total_area(uint32* area) {
    const int c = thread_index();
    if (c >= 256) return;
    for (int s = 1; s < STRIPES; s++) area[c] += area[s * 256 + c];
}

// Each class's area among the pixels without an owner.
//   area (STRIPES, 256) uint32, zeroed; one thread for each STRIP pixels, by index
extern "C" __global__ void free_area(uint32 pixels, const uint8* __restrict__ class_map,
                                     const uint16* __restrict__ owners, uint32* __restrict__ area) {
    const uint32 begin = (uint32)thread_index() * STRIP;
    if (begin >= pixels) return;
    const uint32 end = min(begin + STRIP, pixels);
    uint32* const own_area = area + stripe() * 256;
    int counted = UNLABELLED;
    uint32 n = 0;
    for (uint32 pixel = begin; pixel < end; pixel++) {
        const int label = owners[pixel] ? UNLABELLED : class_map[pixel];
        if (label != counted) {
            if (counted != UNLABELLED) atomicAdd(&own_area[counted], n);
            counted = label, n = 0;
        }
        n++;
    }
    if (counted != UNLABELLED) atomicAdd(&own_area[counted], n);
}

// Which classes pixels without an owner may have: stuff whose area reaches the limit.
//   thing (256,) uint8; area (256,) uint32; kept (256,) uint8; one thread for each class
extern "C" __global__ void keep_stuff(const uint8* __restrict__ thing, const uint32* __restrict__ area,
                                      uint32 stuff_area, uint8* __restrict__ kept) {
    const int c = thread_index();
    if (c < 256) kept[c] = c != UNLABELLED && !thing[c] && area[c] >= stuff_area;
}

// The first `limit` marked pixels in row-major order.
//   marks (words,) uint32, one bit a pixel; points (limit, 2) int32 (y, x); count (1,) uint32
//   one block of at most 1024; reads the marks twice
extern "C" __global__ void list_marked(const uint32* __restrict__ marks, int words, int width, int limit,
                                       int* __restrict__ points, uint32* __restrict__ count) {
    const int share = (words + blockDim.x - 1) / blockDim.x;
    const int begin = threadIdx.x * share, end = min(begin + share, words);
    uint32 own = 0;
    for (int i = begin; i < end; i++) own += __popc(marks[i]);
    uint32 total, next = sum_before(own, total);
    if (threadIdx.x == 0) *count = min(total, (uint32)limit);
    for (int i = begin; i < end; i++) {
        for (uint32 word = marks[i]; word; word &= word - 1, next++) {
            if (next >= (uint32)limit) return;
            const int pixel = i * 32 + __ffs(word) - 1;
            points[2 * next] = pixel / width, points[2 * next + 1] = pixel % width;
        }
    }
}

// ---- the finished maps ----

// Writes what the pixels have become and measures the segments.
//   class_map uint8, confidence uint8, ids uint16, all (H, W), in place. On entry ids holds owners: 0, or 1 + the index of
//   an instance candidate. A pixel with an owner gets that one's class and id, others keep their class if it is kept.
//   kept (256,) uint8: 1 for classes that pixels without an owner may have
//   owner_class (owners,) uint8, owner_id (owners,) uint16: 255 and 0 where the candidate came to nothing; stuff has id 0
//   measures (STRIPES, 256 + owners), zeroed: first the classes', then the owners' (stuff owners count for their class)
//   one thread for each STRIP pixels of a row; reads and writes 4 bytes a pixel
extern "C" __global__ void finish(int height, int width, const uint8* __restrict__ kept,
                                  const uint8* __restrict__ owner_class, const uint16* __restrict__ owner_id, int owners,
                                  uint8* __restrict__ class_map, uint8* __restrict__ confidence,
                                  uint16* __restrict__ ids, Measure* __restrict__ measures) {
    const int strips = (width + STRIP - 1) / STRIP, index = thread_index();
    if (index >= height * strips) return;
    const int y = index / strips, x0 = (index - y * strips) * STRIP;
    const int x1 = x0 + STRIP < width ? x0 + STRIP : width;
    Measure* const own = measures + (uint64)stripe() * (256 + owners);
    const uint64 row = (uint64)y * width;

    for (int begin = x0; begin < x1;) {  // runs of pixels with the same class and owner on entry
        const int label = class_map[row + begin], owner = ids[row + begin];
        int end = begin;
        uint32 sum = 0;
        while (end < x1 && class_map[row + end] == label && ids[row + end] == owner) sum += confidence[row + end++];
        const int new_label = owner ? owner_class[owner - 1] : kept[label] ? label : UNLABELLED;
        const int id = owner ? owner_id[owner - 1] : 0;
        for (int x = begin; x < end; x++) class_map[row + x] = new_label, ids[row + x] = id;
        if (new_label == UNLABELLED) {
            for (int x = begin; x < end; x++) confidence[row + x] = 0;
        } else {
            Measure* const m = own + (id ? 256 + owner - 1 : new_label);
            const uint64 n = end - begin;
            atomicAdd(&m->area, (uint32)n);
            atomicAdd(&m->confidence, (uint64)sum);
            atomicAdd(&m->x, n * (begin + end - 1) / 2);
            atomicAdd(&m->y, n * y);
            atomicMax(&m->left, (uint32)(width - begin));
            atomicMax(&m->right, (uint32)end);
            atomicMax(&m->top, (uint32)(height - y));
            atomicMax(&m->bottom, (uint32)(y + 1));
        }
        begin = end;
    }
}

// Merges the stripes.  measures (STRIPES, segments) -> (segments,) in its first row; one thread for each segment.
extern "C" __global__ void total_measures(Measure* measures, int segments, Measure* __restrict__ out) {
    const int i = thread_index();
    if (i >= segments) return;
    Measure m = measures[i];
    for (int s = 1; s < STRIPES; s++) {
        const Measure& other = measures[(uint64)s * segments + i];
        if (!other.area) continue;
        m.confidence += other.confidence, m.x += other.x, m.y += other.y, m.area += other.area;
        m.left = m.left > other.left ? m.left : other.left, m.top = m.top > other.top ? m.top : other.top;
        m.right = m.right > other.right ? m.right : other.right;
        m.bottom = m.bottom > other.bottom ? m.bottom : other.bottom;
    }
    out[i] = m;
}
