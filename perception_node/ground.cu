// What the pixels show of the ground -> a grid of cells, the free space by bearing, and the pixels' points.
//
// Plain CUDA C++ that also compiles as C++ for the CPU (device/cuda_on_cpu.h). The geometry is in tables, which
// ground.py makes once for a calibration: the kernels only look things up, so every device gives the same bits.
//
// A frame: look, then of fill_cells with mark_feet, march and place_points those that are wanted.

typedef unsigned char uint8;
typedef unsigned short uint16;

// What a class is; from ground.py.
enum Role : uint8 { NOTHING, GROUND, DRIVABLE, OBSTACLE };

// What a pixel shows; ground.py has the same names.
enum Sight : uint8 {
    NO_GROUND,  // sky, unlabelled, beyond the horizon or too far
    FREE,       // drivable ground, connected to that ahead
    DOUBTFUL,   // ground that the network is not sure of, or drivable ground that is not connected
    BLOCKED,    // other ground
    FOOT,       // an obstacle, where it meets the ground
    BODY,       // an obstacle elsewhere
    HIDDEN,     // an instance's lower end where something else, or the image's edge, hides its foot
};

constexpr int OUTSIDE = -1, SKYWARD = -2;  // in `nearer`

constexpr signed char UNKNOWN = -1, VACANT = 0, OCCUPIED = 100;  // values of a nav_msgs/OccupancyGrid

#ifndef RUN
#define RUN 1
#endif

__device__ inline int thread_index() { return blockIdx.x * blockDim.x + threadIdx.x; }

// The items of a thread: RUN neighbours, 1 on a GPU, where neighbouring threads read neighbouring addresses.
#define EACH(item, items) \
    for (int item = thread_index() * RUN, stop = min(item + RUN, items); item < stop; item++)

// What each pixel shows.
//   class_map (pixels,), roles (256,) Role; ids (pixels,) instance ids, 0 for none; confidence (pixels,);
//   connected (pixels,): not 0 where drivable ground is connected to that ahead
//   nearer (pixels,): the neighbour that shows ground nearer to the camera on the same bearing; OUTSIDE of the image;
//   or SKYWARD: the pixel shows no ground. footprint (pixels,): metres of ground in a pixel
//   sights (pixels,) Sight; one thread for RUN pixels; reads 5 bytes and, of obstacles, a neighbour's 3
extern "C" __global__ void look(int pixels, const uint8* __restrict__ class_map, const uint16* __restrict__ ids,
                                const uint8* __restrict__ confidence, const uint8* __restrict__ connected,
                                const uint8* __restrict__ roles, int least_confidence, const int* __restrict__ nearer,
                                const float* __restrict__ footprint, float largest_footprint,
                                uint8* __restrict__ sights) {
    EACH(pixel, pixels) {
        const int id = ids[pixel], below = nearer[pixel];
        const int role = id ? OBSTACLE : roles[class_map[pixel]];
        int sight = NO_GROUND;
        if (role == OBSTACLE) {
            sight = BODY;
            if (below >= 0) {
                const int other = ids[below] ? OBSTACLE : roles[class_map[below]];
                // Whatever is not known to be an obstacle or the sky counts as the ground that this one stands on.
                const bool is_sky = other == NOTHING && class_map[below] != 255;
                if (other != OBSTACLE && !is_sky) sight = FOOT;
                if (other == OBSTACLE && id && ids[below] != id) sight = HIDDEN;
            } else if (below == OUTSIDE && id) {
                sight = HIDDEN;
            }
        } else if (role != NOTHING && below != SKYWARD && footprint[pixel] <= largest_footprint) {
            sight = role == GROUND ? BLOCKED : connected[pixel] ? FREE : DOUBTFUL;
            if (confidence[pixel] < least_confidence) sight = DOUBTFUL;
    }
    sights[pixel] = sight;
    }
}

// What lies at the middle of each cell.
//   seen_by (cells,): the pixel that shows it, or -1; grid (cells,); one thread for RUN cells
extern "C" __global__ void fill_cells(int cells, const int* __restrict__ seen_by, const uint8* __restrict__ sights,
                                      signed char* __restrict__ grid) {
    EACH(cell, cells) {
        const int sight = seen_by[cell] < 0 ? NO_GROUND : sights[seen_by[cell]];
        grid[cell] = sight == FREE ? VACANT : sight == BLOCKED || sight == FOOT ? OCCUPIED : UNKNOWN;
    }
}

struct Grid {
    float x, y;         // of the corner of the first cell, metres
    float resolution;   // side of a cell, metres
    float margin;       // around the feet of instances, metres
    int columns, rows;  // along x and y
};

// Coordinates of a point of the ground in cells: the middle of cell i is at i + 0.5.
__device__ inline float column_of(const Grid& shape, float x) { return (x - shape.x) / shape.resolution; }
__device__ inline float row_of(const Grid& shape, float y) { return (y - shape.y) / shape.resolution; }

// Marks the obstacle whose foot is at (x, y). Of the four cells whose middles are around it those on the obstacle; if it
// is so thin that it lies between all middles, the cell that it is in.
__device__ inline void mark_foot(float x, float y, const Grid& shape, const int* __restrict__ seen_by,
                                 const uint8* __restrict__ sights, signed char* __restrict__ grid) {
    const float column = column_of(shape, x), row = row_of(shape, y);
    if (!(column > -1.0f && row > -1.0f && column < shape.columns + 1.0f && row < shape.rows + 1.0f)) return;
    const int left = (int)floorf(column - 0.5f), low = (int)floorf(row - 0.5f);
    bool is_marked = false;
    for (int j = max(low, 0); j <= min(low + 1, shape.rows - 1); j++)
        for (int i = max(left, 0); i <= min(left + 1, shape.columns - 1); i++) {
            const int cell = j * shape.columns + i;
            if (seen_by[cell] < 0 || sights[seen_by[cell]] == FREE) continue;
            grid[cell] = OCCUPIED;
            is_marked = true;
        }
    const int i = (int)floorf(column), j = (int)floorf(row);
    if (!is_marked && i >= 0 && j >= 0 && i < shape.columns && j < shape.rows) grid[j * shape.columns + i] = OCCUPIED;
}

// The free cells whose middle is within the margin of the foot at (x, y).
__device__ inline void mark_margin(float x, float y, const Grid& shape, signed char* __restrict__ grid) {
    const float column = column_of(shape, x), row = row_of(shape, y), reach = shape.margin / shape.resolution;
    if (!(column + reach >= 0.0f && row + reach >= 0.0f && column - reach < (float)shape.columns &&
          row - reach < (float)shape.rows))
        return;
    const int left = max((int)floorf(column - reach), 0), right = min((int)floorf(column + reach), shape.columns - 1);
    const int low = max((int)floorf(row - reach), 0), high = min((int)floorf(row + reach), shape.rows - 1);
    for (int j = low; j <= high; j++)
        for (int i = left; i <= right; i++) {
            const float dx = (float)i + 0.5f - column, dy = (float)j + 0.5f - row;
            signed char* const cell = grid + j * shape.columns + i;
            if (dx * dx + dy * dy <= reach * reach && *cell == VACANT) *cell = OCCUPIED;
        }
}

// Marks the feet of obstacles, and the margin around those of instances.
//   feet (pixels, 2): where on the ground an obstacle stands whose FOOT is that pixel; grid (rows, columns), filled
//   one thread for RUN pixels; few write, all the same value
extern "C" __global__ void mark_feet(int pixels, const uint8* __restrict__ sights, const uint16* __restrict__ ids,
                                     const float* __restrict__ feet, const float* __restrict__ footprint,
                                     float largest_footprint, Grid shape, const int* __restrict__ seen_by,
                                     signed char* __restrict__ grid) {
    EACH(pixel, pixels) {
        if (sights[pixel] != FOOT || !(footprint[pixel] <= largest_footprint)) continue;
        mark_foot(feet[2 * pixel], feet[2 * pixel + 1], shape, seen_by, sights, grid);
        if (ids[pixel] && shape.margin > 0.0f) mark_margin(feet[2 * pixel], feet[2 * pixel + 1], shape, grid);
    }
}

// How far the free space reaches on each bearing.
//   starts (bearings + 1,): where the pixels of a bearing begin, from near to far; passed (all,): those pixels;
//   distances (all + bearings,): where the bearing enters each pixel and, last, where it leaves the last: those of
//   bearing b begin at starts[b] + b
//   ranges (bearings,): metres, or NaN if no ground is seen; ends (bearings,): what is there, NO_GROUND at the limit
//   one thread a bearing
extern "C" __global__ void march(int bearings, const int* __restrict__ starts, const int* __restrict__ passed,
                                 const float* __restrict__ distances, const uint8* __restrict__ sights,
                                 float* __restrict__ ranges, uint8* __restrict__ ends) {
    const int bearing = thread_index();
    if (bearing >= bearings) return;
    const int begin = starts[bearing], end = starts[bearing + 1];
    int i = begin;
    while (i < end && sights[passed[i]] == FREE) i++;
    ranges[bearing] = begin == end ? NAN : distances[i + bearing];
    ends[bearing] = i == end ? NO_GROUND : sights[passed[i]];
}

// Where each pixel's ground is: that of obstacles only at their feet.
//   ground, feet (pixels, 2): x, y in metres; points (pixels, 3): x, y and z = ground_z, or NaN; one thread for RUN pixels
extern "C" __global__ void place_points(int pixels, const uint8* __restrict__ sights, const float* __restrict__ ground,
                                        const float* __restrict__ feet, const float* __restrict__ footprint,
                                        float largest_footprint, float ground_z, float* __restrict__ points) {
    EACH(pixel, pixels) {
        const int sight = sights[pixel];
        const bool is_foot = sight == FOOT && footprint[pixel] <= largest_footprint;
        const bool is_seen = is_foot || sight == FREE || sight == DOUBTFUL || sight == BLOCKED;
        const float* const from = is_foot ? feet : ground;
        points[3 * pixel] = is_seen ? from[2 * pixel] : NAN;
        points[3 * pixel + 1] = is_seen ? from[2 * pixel + 1] : NAN;
        points[3 * pixel + 2] = is_seen ? ground_z : NAN;
    }
}
