// Instance masks and a semantic map (Mask R-CNN with a semantic branch, Panoptic FPN, EfficientPS).
//
// A frame: memset, classify, order_instances, one of paste_boxed, paste_planes and paste_whole, paint, own, free_area,
// total_area, keep_stuff, finish, total_measures. N instances, all of which may be painted: M = N.
#include "instances.cuh"

// Order of the instances that reach the score and are of a thing class.
//   classes (N,) int32, scores (N,) float32; order (N,) int32; count (1,) uint32, zeroed
//   owner_class (N,) uint8, owner_score (N,) float32, by place; one thread for each instance
extern "C" __global__ void order_instances(const int* __restrict__ classes, const float* __restrict__ scores,
                                           int instances, const uint8* __restrict__ thing, int known_classes,
                                           float threshold, int* __restrict__ order, uint32* __restrict__ count,
                                           uint8* __restrict__ owner_class, float* __restrict__ owner_score) {
    const int i = thread_index();
    if (i >= instances) return;
    int place = 0;
    bool valid = false;
    for (int pass = 0; pass < 2; pass++) {  // first itself, then those before it
        for (int j = pass ? 0 : i; j < (pass ? instances : i + 1); j++) {
            const bool fits = scores[j] >= threshold && classes[j] >= 0 && classes[j] < known_classes && thing[classes[j]];
            if (pass == 0) valid = fits;
            else place += fits && precedes(scores, j, i);
        }
        if (!valid) return;
    }
    order[place] = i, owner_class[place] = classes[i], owner_score[place] = scores[i];
    atomicAdd(count, 1);
}

// Masks of boxes, as detectron2's paste_masks_in_image: bilinear, 0 outside the mask, set from 0.5 on.
//   masks (N, side_y, side_x) LOGIT probabilities; boxes (N, 4) float32 xyxy in input pixels, times scale image pixels
//   bits, extents (M,), area (M,) uint32, zeroed: see instances.cuh; one thread for each row of each place
extern "C" __global__ void paste_boxed(const LOGIT* __restrict__ masks, int side_y, int side_x,
                                       const float* __restrict__ boxes, const int* __restrict__ order,
                                       const uint32* __restrict__ count, int instances, float scale_y, float scale_x,
                                       int height, int width, int words, uint32* __restrict__ bits,
                                       Extent* __restrict__ extents, uint32* __restrict__ area) {
    const int index = thread_index(), place = index / height, y = index - place * height;
    if (place >= instances || place >= (int)*count) return;
    const float* const box = boxes + 4 * order[place];
    const Extent extent = extent_of(box, scale_y, scale_x, height, width);
    if (y == 0) extents[place] = extent;
    if (y < extent.top || y >= extent.bottom) return;
    const float x0 = box[0] * scale_x, x1 = box[2] * scale_x, y0 = box[1] * scale_y, y1 = box[3] * scale_y;
    const LOGIT* const mask = masks + order[place] * side_y * side_x;
    const float at_y = (y + 0.5f - y0) / (y1 - y0) * side_y - 0.5f, floor_y = floorf(at_y), down = at_y - floor_y;
    auto value = [&](float row, float column) {
        const bool in = row >= 0.0f && row < side_y && column >= 0.0f && column < side_x;
        return in ? number(mask[(int)row * side_x + (int)column]) : 0.0f;
    };
    set_row(bits + ((uint64)place * height + y) * words, extent, width, &area[place], [&](int x) {
        const float at_x = (x + 0.5f - x0) / (x1 - x0) * side_x - 0.5f, floor_x = floorf(at_x), right = at_x - floor_x;
        const float upper = value(floor_y, floor_x) * (1.0f - right) + value(floor_y, floor_x + 1.0f) * right;
        const float lower = value(floor_y + 1.0f, floor_x) * (1.0f - right) + value(floor_y + 1.0f, floor_x + 1.0f) * right;
        return upper * (1.0f - down) + lower * down >= 0.5f;
    });
}

// Masks of the whole image at the network's resolution.
//   masks (N, h, w) LOGIT probabilities, set from 0.5 on; otherwise as paste_boxed
extern "C" __global__ void paste_planes(const LOGIT* __restrict__ masks, const int* __restrict__ order,
                                        const uint32* __restrict__ count, int instances, Axis rows, Axis columns,
                                        int words, uint32* __restrict__ bits, Extent* __restrict__ extents,
                                        uint32* __restrict__ area) {
    const int index = thread_index(), place = index / rows.pixels, y = index - place * rows.pixels;
    if (place >= instances || place >= (int)*count) return;
    const Extent whole = {0, rows.pixels, 0, words};
    if (y == 0) extents[place] = whole;
    const LOGIT* const plane = masks + (uint64)order[place] * rows.samples * columns.samples;
    set_row(bits + (uint64)index * words, whole, columns.pixels, &area[place],
            [&](int x) { return sample(plane, rows, columns, y, x) >= 0.5f; });
}

// Masks of the image's own pixels.
//   masks (N, H, W) uint8, set where not 0; otherwise as paste_boxed
extern "C" __global__ void paste_whole(const uint8* __restrict__ masks, const int* __restrict__ order,
                                       const uint32* __restrict__ count, int instances, int height, int width,
                                       int words, uint32* __restrict__ bits, Extent* __restrict__ extents,
                                       uint32* __restrict__ area) {
    const int index = thread_index(), place = index / height, y = index - place * height;
    if (place >= instances || place >= (int)*count) return;
    const Extent whole = {0, height, 0, words};
    if (y == 0) extents[place] = whole;
    const uint8* const row = masks + ((uint64)order[place] * height + y) * width;
    set_row(bits + (uint64)index * words, whole, width, &area[place], [&](int x) { return row[x] != 0; });
}
