// Where the instances of one frame are in the next; and a frame's maps with other ids and classes.
//
// Plain CUDA C++ that also compiles as C++ for the CPU (device/cuda_on_cpu.h). Whole numbers only, whose sums know no
// order: every device gives the same.

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef unsigned int uint32;
typedef long long int64;

constexpr int STRIP = 256;  // pixels of one row that a thread works on
constexpr int VECTOR = 64;  // of those, the pixels that are looked at together

// Where an instance's pixels have moved: column x to (scale_x * x + offset_x) >> 16, and so the rows.
struct Motion {
    int64 scale_x, offset_x, scale_y, offset_y;
};

// The joint histogram of two frames' instances: how many pixels of each earlier one, moved, lie on each later one.
//   before, now (H, W) uint16, instance ids
//   rows, columns (largest id + 1,) uint16: of an id of `before` its row of counts plus 1, 0 for ids that are not looked
//   at; of an id of `now` its column, 0 for all that are not looked at
//   motions (R,): of each row
//   counts (R, n_columns) uint32, zeroed; pixels that leave the image are not counted
//   one thread for each STRIP pixels of a row; reads `before` once, and `now` where there are instances
extern "C" __global__ void joint_histogram(int height, int width, const uint16* __restrict__ before,
                                           const uint16* __restrict__ rows, const Motion* __restrict__ motions,
                                           const uint16* __restrict__ now, const uint16* __restrict__ columns,
                                           int n_columns, uint32* __restrict__ counts) {
    const int index = blockIdx.x * blockDim.x + threadIdx.x, strips = (width + STRIP - 1) / STRIP;
    if (index >= height * strips) return;
    const int y = index / strips, begin = (index - y * strips) * STRIP, end = min(begin + STRIP, width);
    before += (int64)y * width;
    for (int x = begin; x < end;) {  // runs of pixels of one instance
        const int id = before[x], row = rows[id];
        const int first = x;
        while (x < end && before[x] == id) x++;
        if (!row) continue;
        const Motion motion = motions[row - 1];
        const int64 moved_y = (motion.scale_y * y + motion.offset_y) >> 16;
        if (moved_y < 0 || moved_y >= height) continue;
        const uint16* const moved_row = now + moved_y * width;
        uint32* const own_counts = counts + (int64)(row - 1) * n_columns;
        int counted = 0;
        uint32 n = 0;
        for (int i = first; i < x; i++) {
            const int64 moved_x = (motion.scale_x * i + motion.offset_x) >> 16;
            if (moved_x < 0 || moved_x >= width) continue;
            const int column = columns[moved_row[moved_x]];
            if (column != counted) {
                if (n) atomicAdd(&own_counts[counted], n);
                counted = column, n = 0;
            }
            n++;
        }
        if (n) atomicAdd(&own_counts[counted], n);
    }
}

// A frame's maps with other ids and classes for its instances.
//   instances (H, W) uint16, class_map (H, W) uint8: the frame's
//   id_of (largest id + 1,) uint16, of 0 it is 0; class_of (largest id + 1,) uint8
//   new_instances (H, W) uint16, new_class_map (H, W) uint8
//   one thread for each STRIP pixels, by index; reads and writes 3 bytes a pixel
extern "C" __global__ void relabel(uint32 pixels, const uint16* __restrict__ instances,
                                   const uint8* __restrict__ class_map, const uint16* __restrict__ id_of,
                                   const uint8* __restrict__ class_of, uint16* __restrict__ new_instances,
                                   uint8* __restrict__ new_class_map) {
    const uint32 begin = (uint32)(blockIdx.x * blockDim.x + threadIdx.x) * STRIP;
    if (begin >= pixels) return;
    const uint32 end = min(begin + STRIP, pixels);
    for (uint32 first = begin; first < end; first += VECTOR) {  // mostly there are no instances for a while
        const uint32 last = min(first + VECTOR, end);
        int any = 0;
        for (uint32 pixel = first; pixel < last; pixel++) any |= instances[pixel];
        if (!any) {
            for (uint32 pixel = first; pixel < last; pixel++) new_instances[pixel] = 0, new_class_map[pixel] = class_map[pixel];
            continue;
        }
        for (uint32 pixel = first; pixel < last; pixel++) {
            const int id = instances[pixel];
            new_instances[pixel] = id_of[id];
            new_class_map[pixel] = id ? class_of[id] : class_map[pixel];
        }
    }
}
