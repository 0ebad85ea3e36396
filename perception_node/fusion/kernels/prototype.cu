// Boxes with mask coefficients, and prototypes of masks (YOLACT, Bolya et al. 2019; YOLOv8-seg and later).
//
// A frame: memset, score_boxes, list_marked, order_boxes, [compare_boxes, suppress_boxes,] take_boxes, blend_prototypes,
// paste_prototypes, classify or blank, paint, own, free_area, total_area, keep_stuff, finish, total_measures.
// N boxes, of which L = limit candidates at most are considered, and M instances at most are painted.
#include "instances.cuh"

// Each box's best thing class; marks those that reach the score.
//   scores (N, S) float32, of the classes that column_class (S,) uint8 says, 255 for classes that are no things
//   label (N,) uint8, score (N,) float32; marks (ceil(N / 32),) uint32, zeroed; one thread for each box
extern "C" __global__ void score_boxes(const float* __restrict__ scores, int boxes, int columns,
                                       const uint8* __restrict__ column_class, float threshold,
                                       uint8* __restrict__ label, float* __restrict__ score,
                                       uint32* __restrict__ marks) {
    const int i = thread_index();
    if (i >= boxes) return;
    float best = -INFINITY;
    int winner = UNLABELLED;
    for (int c = 0; c < columns; c++) {
        const float value = scores[i * columns + c];
        if (column_class[c] != UNLABELLED && value > best) best = value, winner = column_class[c];
    }
    label[i] = winner, score[i] = best;
    if (best >= threshold && winner != UNLABELLED) atomicOr(&marks[i / 32], 1u << i % 32);
}

// Candidates in the order of their scores.
//   points (L, 2) int32: (0, box), from list_marked; listed (1,) uint32; order (L,) int32; one thread for each candidate
extern "C" __global__ void order_boxes(const int* __restrict__ points, const uint32* __restrict__ listed, int limit,
                                       const float* __restrict__ score, int* __restrict__ order) {
    const int i = thread_index(), n = *listed;
    if (i >= limit || i >= n) return;
    const int box = points[2 * i + 1];
    int place = 0;
    for (int j = 0; j < n; j++) place += precedes(score, points[2 * j + 1], box);
    order[place] = box;
}

// For each candidate, as bits, the later ones of its class that overlap it too much.
//   boxes (N, 4) float32 xyxy; overlaps (L, ceil(L / 32)) uint32; one thread for each word
extern "C" __global__ void compare_boxes(const float* __restrict__ boxes, const uint8* __restrict__ label,
                                         const int* __restrict__ order, const uint32* __restrict__ listed, int limit,
                                         float threshold, uint32* __restrict__ overlaps) {
    const int words = (limit + 31) / 32, index = thread_index(), i = index / words, begin = index % words * 32;
    const int n = *listed;
    if (i >= limit || i >= n || begin >= n) return;
    const float* const a = boxes + 4 * order[i];
    const float area = (a[2] - a[0]) * (a[3] - a[1]);
    uint32 word = 0;
    for (int j = max(begin, i + 1); j < min(begin + 32, n); j++) {
        const float* const b = boxes + 4 * order[j];
        const float w = lesser(a[2], b[2]) - greater(a[0], b[0]), h = lesser(a[3], b[3]) - greater(a[1], b[1]);
        const float both = greater(w, 0.0f) * greater(h, 0.0f);
        const float either = area + (b[2] - b[0]) * (b[3] - b[1]) - both;
        if (label[order[i]] == label[order[j]] && both / either > threshold) word |= 1u << (j - begin);
    }
    overlaps[index] = word;
}

// Greedy non-maximum suppression: a candidate that stays removes those that it overlaps.
//   removed (ceil(L / 32),) uint32, zeroed; one block of any size
extern "C" __global__ void suppress_boxes(const uint32* __restrict__ overlaps, const uint32* __restrict__ listed,
                                          int limit, uint32* removed) {
    const int words = (limit + 31) / 32, n = *listed;
    for (int i = 0; i < n; i++) {
        __syncthreads();
        if (atomic_load(removed + i / 32) >> i % 32 & 1) continue;
        for (int word = i / 32 + threadIdx.x; word * 32 < n; word += blockDim.x)
            removed[word] |= overlaps[(uint64)i * words + word];
    }
}

// The first M candidates that were not removed.
//   chosen (M,) int32; count (1,) uint32; owner_class (M,) uint8, owner_score (M,) float32; one block of at most 1024
extern "C" __global__ void take_boxes(const int* __restrict__ order, const uint32* __restrict__ listed,
                                      const uint32* __restrict__ removed, int instances,
                                      const uint8* __restrict__ label, const float* __restrict__ score,
                                      int* __restrict__ chosen, uint32* __restrict__ count,
                                      uint8* __restrict__ owner_class, float* __restrict__ owner_score) {
    const int n = *listed, share = (n + blockDim.x - 1) / blockDim.x;
    const int begin = min((int)threadIdx.x * share, n), end = min(begin + share, n);
    uint32 own = 0;
    for (int i = begin; i < end; i++) own += ~removed[i / 32] >> i % 32 & 1;
    uint32 total, place = sum_before(own, total);
    if (threadIdx.x == 0) *count = min(total, (uint32)instances);
    for (int i = begin; i < end && place < (uint32)instances; i++) {
        if (removed[i / 32] >> i % 32 & 1) continue;
        const int box = order[i];
        chosen[place] = box, owner_class[place] = label[box], owner_score[place] = score[box], place++;
    }
}

// Mask logits at the prototypes' resolution: coefficients x prototypes, summed in their order, around the box.
//   coefficients (N, k) float32; prototypes (k, h, w) LOGIT; boxes in input pixels; per_y, per_x prototypes' pixels for
//   each input pixel; blended (M, h, w) float32; one thread for each row of each instance
extern "C" __global__ void blend_prototypes(const float* __restrict__ coefficients,
                                            const LOGIT* __restrict__ prototypes, int k, int height, int width,
                                            const float* __restrict__ boxes, float per_y, float per_x,
                                            const int* __restrict__ chosen, const uint32* __restrict__ count,
                                            int instances, float* __restrict__ blended) {
    const int index = thread_index(), place = index / height, y = index - place * height;
    if (place >= instances || place >= (int)*count) return;
    const float* const box = boxes + 4 * chosen[place];
    if (!(y >= box[1] * per_y - 2.0f && y <= box[3] * per_y + 2.0f)) return;
    const int left = (int)lesser(greater(box[0] * per_x - 2.0f, 0.0f), width);
    const int right = (int)lesser(greater(box[2] * per_x + 3.0f, 0.0f), width);
    float* const out = blended + (uint64)index * width;
    for (int x = left; x < right; x++) out[x] = 0.0f;
    for (int i = 0; i < k; i++) {
        const float factor = coefficients[chosen[place] * k + i];
        const LOGIT* const row = prototypes + ((uint64)i * height + y) * width;
        for (int x = left; x < right; x++) out[x] += factor * number(row[x]);
    }
}

// The masks' bits: where the interpolated logit is not below 0, cropped to the box.
//   bits, extents, area: see instances.cuh; one thread for each row of each instance
extern "C" __global__ void paste_prototypes(const float* __restrict__ blended, const float* __restrict__ boxes,
                                            float scale_y, float scale_x, const int* __restrict__ chosen,
                                            const uint32* __restrict__ count, int instances, Axis rows, Axis columns,
                                            int words, uint32* __restrict__ bits, Extent* __restrict__ extents,
                                            uint32* __restrict__ area) {
    const int index = thread_index(), place = index / rows.pixels, y = index - place * rows.pixels;
    if (place >= instances || place >= (int)*count) return;
    const float* const box = boxes + 4 * chosen[place];
    const Extent extent = extent_of(box, scale_y, scale_x, rows.pixels, columns.pixels);
    if (y == 0) extents[place] = extent;
    if (y < extent.top || y >= extent.bottom) return;
    const float x0 = box[0] * scale_x, x1 = box[2] * scale_x, y0 = box[1] * scale_y, y1 = box[3] * scale_y;
    const float* const plane = blended + (uint64)place * rows.samples * columns.samples;
    set_row(bits + (uint64)index * words, extent, columns.pixels, &area[place], [&](int x) {
        return y >= y0 && y < y1 && x >= x0 && x < x1 && sample(plane, rows, columns, y, x) >= 0.0f;
    });
}
