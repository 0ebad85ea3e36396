// Panoptic-DeepLab (Cheng et al. 2020, section 3.5): semantic logits, centre heatmap, offsets -> panoptic maps.
//
// A frame: memset, classify, total_area, find_centers, cut_centers, list_marked, bin_centers, group, keep_stuff,
// vote, finish, total_measures. K = top_k centres at most, B = bins_y * bins_x.
#include "common.cuh"

constexpr int BIN = 32;          // side in pixels of a bin of the nearest-centre search
constexpr int DONE = -2;         // a lane's bin when its centre is found
constexpr int BIN_CENTERS = 31;  // centres that a bin lists; where more are near, all are tried

struct Bin {
    int count;  // or BIN_CENTERS + 1: too many
    int center[BIN_CENTERS];
};

// Marks the centres: above the threshold and not below any other pixel of the window around them.
//   heatmap (1, h, w) LOGIT; marks (ceil(H * W / 32),) uint32, zeroed: one bit a pixel
//   peaks (H * W,) uint64: score << 32 | ~pixel, in any order; peak_count (1,) uint32, zeroed
//   one thread for each tile; reads the heatmap once, more only around centres
extern "C" __global__ void find_centers(const LOGIT* __restrict__ heatmap, Axis rows, Axis columns, float threshold,
                                        int radius_y, int radius_x, uint32* __restrict__ marks, uint64* __restrict__ peaks,
                                        uint32* __restrict__ peak_count) {
    const int index = thread_index();
    if (index >= rows.tiles * columns.tiles) return;
    const Tile tile = tile_at(rows, columns, index);
    const Corners corner = corners(heatmap, tile);
    const float high = corner.high();
    if (high < threshold - slack(threshold) && corner.finite()) return;
    float value[LANES];
    interpolate(corner, weights_of(tile, rows, columns), value);
    float highest = -INFINITY;
    for (int i = 0; i < LANES; i++) highest = greater(value[i], highest);
    const bool within = radius_y >= TILE - 1 && radius_x >= TILE - 1;  // the tile, in every window
    for (int i = 0; i < LANES; i++) {
        const int y = tile.y + i / TILE, x = tile.x + i % TILE;
        if (i / TILE >= tile.height || i % TILE >= tile.width || !(value[i] > threshold)) continue;
        if (within && value[i] < highest) continue;
        // Neighbours first: most pixels fall to one of them.
        bool peak = true;
        for (int j = 0; j < 9 && peak; j++) {
            const int yy = y + (j / 3 - 1) * min(radius_y, 1), xx = x + (j % 3 - 1) * min(radius_x, 1);
            if (yy < 0 || xx < 0 || yy >= rows.pixels || xx >= columns.pixels) continue;
            peak = !(sample(heatmap, rows, columns, yy, xx) > value[i]);
        }
        const int top = max(y - radius_y, 0), bottom = min(y + radius_y, rows.pixels - 1);
        const int left = max(x - radius_x, 0), right = min(x + radius_x, columns.pixels - 1);
        for (int yy = top; yy <= bottom && peak; yy++)
            for (int xx = left; xx <= right && peak; xx++)
                peak = !(sample(heatmap, rows, columns, yy, xx) > value[i]);
        if (!peak) continue;
        const uint32 pixel = y * columns.pixels + x;
        atomicOr(&marks[pixel / 32], 1u << pixel % 32);
        peaks[atomicAdd(peak_count, 1)] = (uint64)ordered(value[i]) << 32 | (uint32)~pixel;
    }
}

// Unmarks all but the `top_k` highest centres; among equals the earlier pixels stay. A radix selection, byte by byte.
//   one block of any size; reads the peaks up to 8 times, and not at all where there are few
extern "C" __global__ void cut_centers(const uint64* __restrict__ peaks, const uint32* __restrict__ peak_count,
                                       int top_k, uint32* __restrict__ marks) {
    __shared__ uint32 histogram[256];
    __shared__ uint64 least;  // the lowest key that stays, as far as it is known
    __shared__ uint32 wanted; // how many stay of those that share its known bytes
    const uint32 count = *peak_count;
    if (count <= (uint32)top_k) return;
    if (threadIdx.x == 0) least = 0, wanted = top_k;
    for (int shift = 56; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < 256; i += blockDim.x) histogram[i] = 0;
        __syncthreads();
        for (uint32 i = threadIdx.x; i < count; i += blockDim.x)
            if (shift == 56 || peaks[i] >> (shift + 8) == least >> (shift + 8))
                atomicAdd(&histogram[peaks[i] >> shift & 255], 1);
        __syncthreads();
        if (threadIdx.x == 0) {
            int byte = 255;
            while (histogram[byte] < wanted) wanted -= histogram[byte--];
            least |= (uint64)byte << shift;
        }
        __syncthreads();
    }
    for (uint32 i = threadIdx.x; i < count; i += blockDim.x) {
        const uint32 pixel = ~(uint32)peaks[i];
        if (peaks[i] < least) atomicAnd(&marks[pixel / 32], ~(1u << pixel % 32));
    }
}

// For each bin of the image the centres that can be the nearest to a point in it: those whose nearest point of the bin is
// not farther than another centre's farthest.
//   centers (K, 2) int32; bins (B,); one thread for each bin
extern "C" __global__ void bin_centers(const int* __restrict__ centers, const uint32* __restrict__ center_count,
                                       int bins_y, int bins_x, Bin* __restrict__ bins) {
    const int index = thread_index();
    if (index >= bins_y * bins_x) return;
    const int count = *center_count;
    const float top = index / bins_x * BIN, left = index % bins_x * BIN;
    float reach = INFINITY;
    for (int i = 0; i < count; i++) {
        const float dy = fabsf(centers[2 * i] - (top + BIN / 2)) + BIN / 2;
        const float dx = fabsf(centers[2 * i + 1] - (left + BIN / 2)) + BIN / 2;
        reach = lesser(reach, dy * dy + dx * dx);
    }
    Bin& bin = bins[index];
    int listed = 0;
    for (int i = 0; i < count && listed <= BIN_CENTERS; i++) {
        const float dy = greater(fabsf(centers[2 * i] - (top + BIN / 2)) - BIN / 2, 0.0f);
        const float dx = greater(fabsf(centers[2 * i + 1] - (left + BIN / 2)) - BIN / 2, 0.0f);
        if (dy * dy + dx * dx > reach * 1.0001f) continue;
        if (listed < BIN_CENTERS) bin.center[listed] = i;
        listed++;
    }
    bin.count = listed;
}

// Gives each thing pixel to the centre nearest to where its offset leads, and counts the classes of each one's pixels.
//   offset (2, h, w) LOGIT (dy, dx) in input pixels, times scale_y, scale_x image pixels; foreground null or (1, h, w)
//   LOGIT: where given, things are where it is above 0; thing (256,) uint8; class_map (H, W) uint8
//   owners (H, W) uint16, zeroed: 0, or 1 + the centre's index; votes (K, C) uint32, zeroed
//   one thread for each tile; reads 1 byte a pixel and, of tiles with things, the offsets; writes 2 bytes a pixel
extern "C" __global__ void group(const LOGIT* __restrict__ offset, const LOGIT* __restrict__ foreground, Axis rows,
                                 Axis columns, float scale_y, float scale_x, const uint16* __restrict__ list,
                                 const int* __restrict__ length, const uint8* __restrict__ thing,
                                 int classes, const int* __restrict__ centers, const uint32* __restrict__ center_count,
                                 int bins_y, int bins_x, const Bin* __restrict__ bins, uint8* __restrict__ class_map,
                                 uint16* __restrict__ owners, uint32* __restrict__ votes) {
    const int index = thread_index();
    if (index >= rows.tiles * columns.tiles) return;
    const Tile tile = tile_at(rows, columns, index);
    const int count = *center_count, plane = rows.samples * columns.samples;
    const int block = block_of(columns, tile);
    bool any = foreground != nullptr;
    for (int k = 0; k < length[2 * block] && !any; k++) any = thing[list[block * classes + k]];
    if (!any) return;
    int label[LANES];
    any = foreground != nullptr;
    for (int i = 0; i < LANES; i++) {
        const int y = i / TILE, x = i % TILE;
        label[i] = UNLABELLED;
        if (y < tile.height && x < tile.width) label[i] = class_map[(tile.y + y) * columns.pixels + tile.x + x];
        any |= thing[label[i]] != 0;
    }
    if (!any) return;
    float shown[LANES] = {}, to_y[LANES], to_x[LANES], least[LANES];
    int bin[LANES], nearest[LANES];
    const Weights weight = weights_of(tile, rows, columns);
    if (foreground) interpolate(corners(foreground, tile), weight, shown);
    interpolate(corners(offset, tile), weight, to_y);
    interpolate(corners(offset + plane, tile), weight, to_x);
    for (int i = 0; i < LANES; i++) {
        to_y[i] = tile.y + i / TILE + to_y[i] * scale_y;
        to_x[i] = tile.x + i % TILE + to_x[i] * scale_x;
        const bool inside = to_y[i] >= 0 && to_x[i] >= 0 && to_y[i] < bins_y * BIN && to_x[i] < bins_x * BIN;
        bin[i] = inside ? (int)to_y[i] / BIN * bins_x + (int)to_x[i] / BIN : -1;
        least[i] = INFINITY, nearest[i] = 0;
    }
    for (int i = 0; i < LANES; i++) {  // mostly all lanes lead into one bin and are done at once
        const int current = bin[i];
        if (current == DONE) continue;
        const bool all = current < 0 || bins[current].count > BIN_CENTERS;
        const int n = all ? count : bins[current].count;
        for (int j = 0; j < n; j++) {
            const int center = all ? j : bins[current].center[j];
            const float y = centers[2 * center], x = centers[2 * center + 1];
            for (int k = 0; k < LANES; k++) {
                const float away_y = to_y[k] - y, away_x = to_x[k] - x;
                const float distance = away_y * away_y + away_x * away_x;
                const bool nearer = distance < least[k] && bin[k] == current;
                least[k] = nearer ? distance : least[k];
                nearest[k] = nearer ? center : nearest[k];
            }
        }
        for (int k = 0; k < LANES; k++) bin[k] = bin[k] == current ? DONE : bin[k];
    }
    int voted = 0, agreeing = 0;  // neighbours mostly vote alike: one addition for a run of them
    for (int i = 0; i < LANES; i++) {
        if (i / TILE >= tile.height || i % TILE >= tile.width) continue;
        const int pixel = (tile.y + i / TILE) * columns.pixels + tile.x + i % TILE;
        const bool is_thing = thing[label[i]] != 0, in_front = foreground ? shown[i] > 0.0f : is_thing;
        if (is_thing && !in_front) class_map[pixel] = UNLABELLED;
        if (!in_front || !count) continue;
        owners[pixel] = nearest[i] + 1;
        const int vote = is_thing ? nearest[i] * classes + label[i] : -1;
        if (vote != voted) {
            if (agreeing) atomicAdd(&votes[voted], agreeing);
            voted = vote, agreeing = 0;
        }
        agreeing += vote >= 0;
    }
    if (agreeing) atomicAdd(&votes[voted], agreeing);
}

// The class that most of an instance's pixels have, the lower of equals; ids 1, 2, ... for instances that got pixels.
//   votes (K, C) uint32; owner_class (K,) uint8, owner_id (K,) uint16; one block of at most 1024
extern "C" __global__ void vote(const uint32* __restrict__ votes, const uint32* __restrict__ center_count, int classes,
                                uint8* __restrict__ owner_class, uint16* __restrict__ owner_id) {
    const int count = *center_count, share = (count + blockDim.x - 1) / blockDim.x;
    const int begin = threadIdx.x * share, end = min(begin + share, count);
    uint32 present = 0;
    for (int i = begin; i < end; i++) {
        int label = UNLABELLED;
        uint32 most = 0;
        for (int c = 0; c < classes; c++)
            if (votes[i * classes + c] > most) most = votes[i * classes + c], label = c;
        owner_class[i] = label;
        present += label != UNLABELLED;
    }
    uint32 total, id = sum_before(present, total);
    for (int i = begin; i < end; i++) owner_id[i] = owner_class[i] == UNLABELLED ? 0 : ++id;
}
