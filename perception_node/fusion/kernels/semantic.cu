// Any semantic segmentation network: logits -> classes and, if wanted, the connected components of thing classes.
//
// A frame: memset, classify, total_area, keep_stuff, [start_components, join_components, mark_components, list_marked,
// number_components, spread_components,] finish, total_measures.
//
// Components by union-find (Playne and Hawick 2018): every pixel points to an earlier or the same pixel of its component,
// the first one to itself. Which thread comes first changes the way there, never the result.
#include "common.cuh"

constexpr uint32 NONE = 0xFFFFFFFFu;

__device__ inline uint32 root(const uint32* parent, uint32 pixel) {
    while (true) {
        const uint32 next = atomic_load(parent + pixel);
        if (next == pixel) return pixel;
        pixel = next;
    }
}

__device__ inline void unite(uint32* parent, uint32 a, uint32 b) {
    while (true) {
        a = root(parent, a), b = root(parent, b);
        if (a == b) return;
        if (a < b) {
            const uint32 other = a;
            a = b, b = other;
        }
        const uint32 old = atomicMin(&parent[a], b);  // a is the later root: hang it below b
        if (old == a) return;
        a = old;  // somebody else was first: go on with what a pointed to
    }
}

// Each pixel of a thing class points to the first of its run.
//   class_map (H, W) uint8; parent (H, W) uint32; one thread for each STRIP pixels of a row
extern "C" __global__ void start_components(const uint8* __restrict__ class_map, const uint8* __restrict__ thing,
                                            int height, int width, uint32* __restrict__ parent) {
    const int strips = (width + STRIP - 1) / STRIP, index = thread_index();
    if (index >= height * strips) return;
    const int y = index / strips, begin = index % strips * STRIP, end = min(begin + STRIP, width);
    const uint32 row = (uint32)y * width;
    uint32 first = row + begin;
    for (uint32 pixel = row + begin; pixel < row + end; pixel++) {
        if (class_map[pixel] != class_map[first]) first = pixel;
        parent[pixel] = thing[class_map[pixel]] ? first : NONE;
    }
}

// Joins each run with its neighbours of the same class: to the left of the strip, and the three pixels above.
//   one thread for each STRIP pixels of a row
extern "C" __global__ void join_components(const uint8* __restrict__ class_map, const uint8* __restrict__ thing,
                                           int height, int width, uint32* parent) {
    const int strips = (width + STRIP - 1) / STRIP, index = thread_index();
    if (index >= height * strips) return;
    const int y = index / strips, begin = index % strips * STRIP, end = min(begin + STRIP, width);
    for (int x = begin; x < end; x++) {
        const uint32 pixel = (uint32)y * width + x;
        const int label = class_map[pixel];
        if (!thing[label]) continue;
        const bool left = x > 0 && class_map[pixel - 1] == label;
        if (left && x == begin) unite(parent, pixel, pixel - 1);
        if (y == 0) continue;
        const uint32 above = pixel - width;
        const bool up = class_map[above] == label, up_left = x > 0 && class_map[above - 1] == label;
        const bool up_right = x + 1 < width && class_map[above + 1] == label;
        // What is connected through a neighbour that is joined anyway needs no joining.
        if (up && !(left && up_left)) unite(parent, pixel, above);
        if (up_left && !up && !left) unite(parent, pixel, above - 1);
        if (up_right && !up) unite(parent, pixel, above + 1);
    }
}

// Points each pixel to the first of its component, and marks that one.
//   marks (ceil(H * W / 32),) uint32, zeroed; one thread for each 32 pixels
extern "C" __global__ void mark_components(uint32 pixels, uint32* parent, uint32* __restrict__ marks) {
    const uint32 begin = (uint32)thread_index() * 32;
    if (begin >= pixels) return;
    const uint32 end = min(begin + 32, pixels);
    uint32 word = 0;
    for (uint32 pixel = begin; pixel < end; pixel++) {
        const uint32 start = atomic_load(parent + pixel);
        if (start == NONE) continue;
        const uint32 first = root(parent, start);
        atomic_store(parent + pixel, first);
        if (first == pixel) word |= 1u << (pixel - begin);
    }
    marks[begin / 32] = word;
}

// The components' labels, and at the first pixel of each one its owner.
//   points (limit, 2) int32, count (1,) uint32: from list_marked; owners (H, W) uint16, zeroed; one thread a component
extern "C" __global__ void number_components(const int* __restrict__ points, const uint32* __restrict__ count, int limit,
                                             int width, const uint8* __restrict__ class_map,
                                             uint16* __restrict__ owners, uint8* __restrict__ owner_class,
                                             uint16* __restrict__ owner_id) {
    const int i = thread_index();
    if (i >= limit || i >= (int)*count) return;
    const int pixel = points[2 * i] * width + points[2 * i + 1];
    owners[pixel] = i + 1, owner_class[i] = class_map[pixel], owner_id[i] = i + 1;
}

// Each pixel gets the owner of its component's first pixel.  One thread for each STRIP pixels, by index.
extern "C" __global__ void spread_components(uint32 pixels, const uint32* __restrict__ parent, uint16* owners) {
    const uint32 begin = (uint32)thread_index() * STRIP;
    if (begin >= pixels) return;
    const uint32 end = min(begin + STRIP, pixels);
    for (uint32 pixel = begin; pixel < end; pixel++)
        if (parent[pixel] != NONE && parent[pixel] != pixel) owners[pixel] = owners[parent[pixel]];
}
