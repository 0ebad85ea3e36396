// Overlapping instance masks and semantic classes -> panoptic maps (Kirillov et al. 2019, section 4): the higher score
// is on top, stuff fills what is left. Shared by instance_semantic.cu and prototype.cu.
//
// M instances at most; "place" is an instance's position in the order of scores. Masks are bits: bits (M, H, words)
// uint32 with words = ceil(W / 32), valid only within the instance's extent.
#pragma once
#include "common.cuh"

// Rows and words of `bits` that an instance's mask may reach. `area` counts its pixels.
struct Extent {
    int top, bottom, left, right;  // exclusive at bottom and right; left and right in words
};

__device__ inline Extent extent_of(const float* box, float scale_y, float scale_x, int height, int width) {
    // A pixel beyond on each side, for rounding; NaN becomes an empty extent.
    const float x0 = box[0] * scale_x - 1.0f, y0 = box[1] * scale_y - 1.0f;
    const float x1 = box[2] * scale_x + 2.0f, y1 = box[3] * scale_y + 2.0f;
    if (!(box[0] < box[2] && box[1] < box[3] && x1 > 0.0f && y1 > 0.0f && x0 < width && y0 < height)) return {0, 0, 0, 0};
    return {(int)greater(y0, 0.0f), (int)lesser(y1, height), (int)greater(x0, 0.0f) / 32,
            ((int)lesser(x1, width) + 31) / 32};
}

// Whether candidate a comes before b: the higher score, of equals the lower index.
__device__ inline bool precedes(const float* score, int a, int b) {
    return score[a] > score[b] || (score[a] == score[b] && a < b);
}

// Sets the bits of one row of a mask where `inside(x)`, and counts them.
template <typename Inside>
__device__ inline void set_row(uint32* __restrict__ row, const Extent& extent, int width, uint32* area, Inside inside) {
    uint32 pixels = 0;
    for (int i = extent.left; i < extent.right; i++) {
        uint32 word = 0;
        for (int bit = 0; bit < 32 && i * 32 + bit < width; bit++) word |= (uint32)inside(i * 32 + bit) << bit;
        row[i] = word, pixels += __popc(word);
    }
    if (pixels) atomicAdd(area, pixels);
}

// Paints the masks in order: one that is covered too much already is skipped, the others take the pixels still free.
//   bits (M, H, words): on exit only the pixels that the instance got; area (M,) uint32: pixels of its mask
//   painted (H, words) uint32, zeroed; owner_id (M,) uint16: 1, 2, ... or 0 where skipped
//   one block of at most 1024
extern "C" __global__ void paint(uint32* __restrict__ bits, const Extent* __restrict__ extents,
                                 const uint32* __restrict__ area, const uint32* __restrict__ count, int height,
                                 int words, double overlap, uint32* __restrict__ painted,
                                 uint16* __restrict__ owner_id) {
    __shared__ uint32 covered;
    const int n = *count;
    int id = 0;
    for (int place = 0; place < n; place++) {
        const Extent extent = extents[place];
        const int columns = extent.right - extent.left, items = (extent.bottom - extent.top) * columns;
        uint32* const mask = bits + (uint64)place * height * words;
        __syncthreads();
        if (threadIdx.x == 0) covered = 0;
        __syncthreads();
        uint32 own = 0;
        for (int i = threadIdx.x; i < items; i += blockDim.x) {
            const int at = (extent.top + i / columns) * words + extent.left + i % columns;
            own += __popc(mask[at] & painted[at]);
        }
        if (own) atomicAdd(&covered, own);
        __syncthreads();
        const bool stays = area[place] > covered && (double)covered / area[place] <= overlap;
        if (stays) id++;
        if (threadIdx.x == 0) owner_id[place] = stays ? id : 0;
        for (int i = threadIdx.x; stays && i < items; i += blockDim.x) {
            const int at = (extent.top + i / columns) * words + extent.left + i % columns;
            mask[at] &= ~painted[at];
            painted[at] |= mask[at];
        }
    }
}

// Gives the pixels of the painted masks to their instances.
//   owners (H, W) uint16, zeroed; confidence (H, W) uint8: 255 * score; one thread for each row of each place
extern "C" __global__ void own(const uint32* __restrict__ bits, const Extent* __restrict__ extents,
                               const uint32* __restrict__ count, int instances, int height, int width, int words,
                               const uint16* __restrict__ owner_id, const float* __restrict__ owner_score,
                               uint16* __restrict__ owners, uint8* __restrict__ confidence) {
    const int index = thread_index(), place = index / height, y = index - place * height;
    if (place >= instances || place >= (int)*count || !owner_id[place]) return;
    const Extent extent = extents[place];
    if (y < extent.top || y >= extent.bottom) return;
    const uint8 shown = (uint8)(255.0f * lesser(greater(owner_score[place], 0.0f), 1.0f) + 0.5f);
    const uint32* const row = bits + ((uint64)place * height + y) * words;
    for (int i = extent.left; i < extent.right; i++) {
        for (uint32 word = row[i]; word; word &= word - 1) {
            const uint64 pixel = (uint64)y * width + i * 32 + __ffs(word) - 1;
            owners[pixel] = place + 1, confidence[pixel] = shown;
        }
    }
}

// Without semantic logits: no class anywhere.  One thread for each STRIP pixels, by index.
extern "C" __global__ void blank(uint32 pixels, uint8* __restrict__ class_map, uint8* __restrict__ confidence) {
    const uint32 begin = (uint32)thread_index() * STRIP;
    if (begin >= pixels) return;
    const uint32 end = min(begin + STRIP, pixels);
    for (uint32 pixel = begin; pixel < end; pixel++) class_map[pixel] = UNLABELLED, confidence[pixel] = 0;
}
