// A camera's image -> the network's input: decoded, resampled and normalised in one kernel.
//
// Plain CUDA C++ that also compiles as C++ for the CPU (device/cuda_on_cpu.h). Compiled once for each configuration:
//   ENCODING  how pixels lie in the bytes: PACKED, YUV422 or BAYER
//   CHANNELS  PACKED: bytes of a pixel: 1 grey, 3 colours, or 4 of which the last is not looked at
//   LUMA      YUV422: the first luma byte of a pair of pixels, 1 in UYVY, 0 in YUYV
//   RED       BAYER: which of a cell's two columns red is in
//   DEPTH     BAYER: bytes of a sample
//   NUMBER    float or __half: the element type of the tensor
//   RUN       pixels of a row that one thread makes: 1, or so many that loops over them are worth vectorising
//
// Colours are decoded to whole numbers, 0..255. Resampling is float32 without fused multiply-add: every pixel adds up
// first down its columns, then across them, tap after tap. A RUN of 1 does the same operations as a long one, so every
// device gives the same bits.

#define PACKED 1
#define YUV422 2
#define BAYER 3

#ifndef ENCODING
#define ENCODING PACKED
#endif
#ifndef CHANNELS
#define CHANNELS 3
#endif
#ifndef LUMA
#define LUMA 1
#endif
#ifndef RED
#define RED 0
#endif
#ifndef DEPTH
#define DEPTH 1
#endif
#ifndef NUMBER
#define NUMBER float
#endif
#ifndef RUN
#define RUN 1
#endif

typedef unsigned char uint8;

struct Image {
    const uint8* bytes;  // (height, step)
    long long step;      // bytes from one row to the next
    int height, width;
    int high;     // BAYER: which of a sample's bytes counts
    int red_row;  // BAYER: which of a cell's two rows red is in
};

// How one axis of the tensor samples the image's; from preprocess.py.
struct Axis {
    const int* first;     // (pixels,) index of the first sample; all `taps` of them lie in the image
    const float* weight;  // (taps, pixels) of the samples from there on; 0 where a pixel needs fewer
    int samples, pixels, taps;
};

// From a colour's sums to the tensor's planes: scale * sum - shift.
struct Planes {
    float scale[3], shift[3];
    int reversed;  // the last channel goes to the first plane
    int height, width;
};

struct Color {
    int channel[3];  // of PACKED in the order of the bytes, else red, green, blue
};

__device__ inline void put(float* at, float value) { *at = value; }
__device__ inline void put(__half* at, float value) { *at = __float2half_rn(value); }

// ---- decoding ----

#if ENCODING == PACKED

__device__ inline Color color_at(const Image& image, int y, int x) {
    const uint8* const pixel = image.bytes + y * image.step + (long long)x * CHANNELS;
    constexpr int next = CHANNELS > 1;
    return {{pixel[0], pixel[next], pixel[2 * next]}};
}

#elif ENCODING == YUV422

__device__ inline int to_byte(int value) {
    value = (value + 32768) >> 16;
    return value < 0 ? 0 : value > 255 ? 255 : value;
}

// ITU-R BT.601, luma 16..235 and chroma 16..240, in 1/65536.
struct Chroma {
    int red, green, blue;
};

__device__ inline Chroma chroma(int u, int v) {
    u -= 128, v -= 128;
    return {104597 * v, -25675 * u - 53279 * v, 132201 * u};
}

__device__ inline Color shade(int luma, const Chroma& chroma) {
    luma = 76309 * (luma > 16 ? luma - 16 : 0);
    return {{to_byte(luma + chroma.red), to_byte(luma + chroma.green), to_byte(luma + chroma.blue)}};
}

__device__ inline Color color_at(const Image& image, int y, int x) {
    const uint8* const pair = image.bytes + y * image.step + 4LL * (x >> 1);
    return shade(pair[LUMA + 2 * (x & 1)], chroma(pair[1 - LUMA], pair[3 - LUMA]));
}

#elif ENCODING == BAYER

// The rows above and below; beyond the edge the image is mirrored, so that every sample has the colour it should.
__device__ inline const uint8* mosaic_row(const Image& image, int y) {
    y = y < 0 ? 1 : y < image.height ? y : image.height - 2;
    return image.bytes + y * image.step + image.high;
}

__device__ inline bool is_red_row(const Image& image, int y) { return y % 2 == image.red_row; }

// Bilinear demosaicing: what a pixel lacks is the mean of the nearest samples that have it.
//   left, x, right: columns; red_row, red_column: whether red lies in that pixel's row and column
__device__ inline Color demosaic(const uint8* __restrict__ above, const uint8* __restrict__ row,
                                 const uint8* __restrict__ below, int left, int x, int right, bool red_row,
                                 bool red_column) {
    left *= DEPTH, x *= DEPTH, right *= DEPTH;
    const int sides = row[left] + row[right], ends = above[x] + below[x];
    const int diagonal = (above[left] + above[right] + below[left] + below[right] + 2) >> 2;
    const int across = (sides + 1) >> 1, down = (ends + 1) >> 1, cross = (sides + ends + 2) >> 2;
    const bool is_green = red_row != red_column;
    const int own = row[x], green = is_green ? own : cross;
    const int of_row = is_green ? across : own, of_other = is_green ? down : diagonal;
    return {{red_row ? of_row : of_other, green, red_row ? of_other : of_row}};
}

__device__ inline Color color_at(const Image& image, int y, int x) {
    const int left = x > 0 ? x - 1 : 1, right = x + 1 < image.width ? x + 1 : image.width - 2;
    return demosaic(mosaic_row(image, y - 1), mosaic_row(image, y), mosaic_row(image, y + 1), left, x, right,
                    is_red_row(image, y), x % 2 == RED);
}

#endif

// ---- one pixel ----

__device__ inline void make_pixel(const Image& image, const Axis& rows, const Axis& columns, const Planes& planes,
                                  int y, int x, NUMBER* __restrict__ tensor) {
    const int top = rows.first[y], left = columns.first[x];
    float sum[3] = {0.0f, 0.0f, 0.0f};
    for (int i = 0; i < columns.taps; i++) {
        float column[3] = {0.0f, 0.0f, 0.0f};
        for (int j = 0; j < rows.taps; j++) {
            const Color color = color_at(image, top + j, left + i);
            const float weight = rows.weight[j * rows.pixels + y];
            for (int c = 0; c < 3; c++) column[c] += weight * (float)color.channel[c];
        }
        const float weight = columns.weight[i * columns.pixels + x];
        for (int c = 0; c < 3; c++) sum[c] += weight * column[c];
    }
    for (int c = 0; c < 3; c++) {
        const float value = planes.reversed ? sum[2 - c] : sum[c];
        put(tensor + ((long long)c * planes.height + y) * planes.width + x, planes.scale[c] * value - planes.shift[c]);
    }
}

// ---- a run of pixels ----

#if RUN > 1

constexpr int WINDOW = 1024;  // columns of the image that a run works on at a time: their sums stay in the L1 cache

// Where channel c of the window's column x lies: x * STEP + c * PLANE.
#if ENCODING == PACKED
constexpr int STEP = CHANNELS, PLANE = CHANNELS > 1, PARTS = 1;
#else
constexpr int STEP = 1, PLANE = WINDOW, PARTS = 3;
#endif

__device__ inline void keep(const Color& color, uint8* __restrict__ memory, int x) {
    for (int c = 0; c < 3; c++) memory[c * WINDOW + x] = (uint8)color.channel[c];
}

// The samples of a row in the columns from `begin`, which is even, to before `end`: at most WINDOW. Either where they
// are or in `memory`. Two pixels at a time, because what they look at and become differs: so there is nothing to choose.
#if ENCODING == PACKED

__device__ inline const uint8* decode_row(const Image& image, int y, int begin, int, uint8*) {
    return image.bytes + y * image.step + (long long)begin * CHANNELS;
}

#elif ENCODING == YUV422

__device__ inline const uint8* decode_row(const Image& image, int y, int begin, int end, uint8* __restrict__ memory) {
    const uint8* __restrict__ const row = image.bytes + y * image.step + 2LL * begin;
    for (int i = 0; i < (end - begin + 1) / 2; i++) {
        const Chroma both = chroma(row[4 * i + 1 - LUMA], row[4 * i + 3 - LUMA]);
        keep(shade(row[4 * i + LUMA], both), memory, 2 * i);
        keep(shade(row[4 * i + LUMA + 2], both), memory, 2 * i + 1);
    }
    return memory;
}

#elif ENCODING == BAYER

template <bool red_row>
__device__ inline void demosaic_row(const Image& image, int y, int begin, int end, uint8* __restrict__ memory) {
    const uint8 *above = mosaic_row(image, y - 1), *row = mosaic_row(image, y), *below = mosaic_row(image, y + 1);
    // Without those whose neighbours are mirrored.
    const int first = begin > 0 ? begin : 2, last = end < image.width ? end : image.width - 1;
    const int pairs = last > first ? (last - first) / 2 : 0;
    uint8* __restrict__ const inner = memory + first - begin;
    for (int i = 0; i < pairs; i++) {
        const int x = first + 2 * i;
        keep(demosaic(above, row, below, x - 1, x, x + 1, red_row, RED == 0), inner, 2 * i);
        keep(demosaic(above, row, below, x, x + 1, x + 2, red_row, RED == 1), inner, 2 * i + 1);
    }
    for (int x = begin; x < first && x < end; x++) keep(color_at(image, y, x), memory, x - begin);
    for (int x = first + 2 * pairs; x < end; x++) keep(color_at(image, y, x), memory, x - begin);
}

__device__ inline const uint8* decode_row(const Image& image, int y, int begin, int end, uint8* __restrict__ memory) {
    if (is_red_row(image, y))
        demosaic_row<true>(image, y, begin, end, memory);
    else
        demosaic_row<false>(image, y, begin, end, memory);
    return memory;
}

#endif

// Part of a row of the tensor: pixels x..end, whose samples lie in the columns left..right of the image.
struct Run {
    int y, x, end, left, right;
};

__device__ inline NUMBER* row_of(NUMBER* tensor, const Planes& planes, int plane, const Run& run) {
    return tensor + ((long long)plane * planes.height + run.y) * planes.width + run.x;
}

// Where each pixel is one sample as it is.
__device__ inline void copy_run(const Image& image, int row, const Run& run, const Planes& planes,
                                NUMBER* __restrict__ tensor) {
    uint8 memory[PARTS * WINDOW];
    const uint8* const samples = decode_row(image, row, run.left, run.right, memory);
    const int first = (run.right - run.left - (run.end - run.x)) * STEP;  // left is even, so it may be one before
    for (int c = 0; c < 3; c++) {
        const uint8* __restrict__ const from = samples + first + (planes.reversed ? 2 - c : c) * PLANE;
        NUMBER* __restrict__ const to = row_of(tensor, planes, c, run);
        const float scale = planes.scale[c], shift = planes.shift[c];
        for (int i = 0; i < run.end - run.x; i++) put(to + i, scale * (float)from[i * STEP] - shift);
    }
}

// The weighted sums down the window's columns.
__device__ inline void sum_columns(const Image& image, const Axis& rows, const Run& run, float* __restrict__ column) {
    uint8 memory[PARTS * WINDOW];
    const int length = (run.right - run.left) * STEP;
    for (int j = 0; j < rows.taps; j++) {
        const float weight = rows.weight[j * rows.pixels + run.y];
        if (j > 0 && weight == 0.0f) continue;
        const uint8* const samples = decode_row(image, rows.first[run.y] + j, run.left, run.right, memory);
        for (int part = 0; part < PARTS; part++) {
            const uint8* __restrict__ const from = samples + part * WINDOW;
            float* __restrict__ const to = column + part * WINDOW;
            if (j == 0)
                for (int i = 0; i < length; i++) to[i] = weight * (float)from[i];
            else
                for (int i = 0; i < length; i++) to[i] += weight * (float)from[i];
        }
    }
}

__device__ inline void make_run(const Image& image, const Axis& rows, const Axis& columns, const Planes& planes,
                                const Run& run, NUMBER* __restrict__ tensor) {
    const int count = run.end - run.x;
    if (rows.taps == 1 && columns.taps == 1 && columns.first[run.end - 1] - columns.first[run.x] == count - 1) {
        copy_run(image, rows.first[run.y], run, planes, tensor);
        return;
    }
    float column[WINDOW * (PARTS > 1 ? PARTS : STEP)];
    sum_columns(image, rows, run, column);
    int index[RUN];
    for (int i = 0; i < count; i++) index[i] = (columns.first[run.x + i] - run.left) * STEP;
    for (int c = 0; c < 3; c++) {
        const float* __restrict__ const from = column + (planes.reversed ? 2 - c : c) * PLANE;
        float sum[RUN];
        for (int i = 0; i < count; i++) sum[i] = columns.weight[run.x + i] * from[index[i]];
        for (int k = 1; k < columns.taps; k++) {
            const float* __restrict__ const weight = columns.weight + k * columns.pixels + run.x;
            for (int i = 0; i < count; i++) sum[i] += weight[i] * from[index[i] + k * STEP];
        }
        NUMBER* __restrict__ const to = row_of(tensor, planes, c, run);
        const float scale = planes.scale[c], shift = planes.shift[c];
        for (int i = 0; i < count; i++) put(to + i, scale * sum[i] - shift);
    }
}

#endif

// bytes (rows.samples, step) uint8 -> tensor (3, planes.height, planes.width) NUMBER: the image in its upper left
// rows.pixels x columns.pixels, 0 around it.
//   one thread for each RUN pixels of a row; reads a byte once where nothing is resampled, else again for each pixel
//   that it adds to (mostly from cache), writes 3 NUMBERs a pixel, neighbouring threads to neighbouring addresses
extern "C" __global__ void preprocess(const uint8* __restrict__ bytes, long long step, int high, int red_row,
                                      Axis rows, Axis columns, Planes planes, NUMBER* __restrict__ tensor) {
    const int runs = (planes.width + RUN - 1) / RUN, thread = blockIdx.x * blockDim.x + threadIdx.x;
    if (thread >= planes.height * runs) return;
    const int y = thread / runs, x0 = (thread - y * runs) * RUN;
    const int last = x0 + RUN < planes.width ? x0 + RUN : planes.width;
    int x1 = y < rows.pixels ? columns.pixels : 0;  // where the image ends in this row
    x1 = x1 < x0 ? x0 : x1 < last ? x1 : last;
    for (int c = 0; c < 3; c++) {
        NUMBER* __restrict__ const row = tensor + ((long long)c * planes.height + y) * planes.width;
        for (int x = x1; x < last; x++) put(row + x, 0.0f);
    }
    const Image image = {bytes, step, rows.samples, columns.samples, high, red_row};
#if RUN == 1
    if (x0 < x1) make_pixel(image, rows, columns, planes, y, x0, tensor);
#else
    for (int x = x0, end; x < x1; x = end) {
        const int left = columns.first[x] & ~1;  // even, as pairs begin
        for (end = x; end < x1 && columns.first[end] + columns.taps - left <= WINDOW; end++) {
        }
        if (end == x) {  // this pixel alone has more
            make_pixel(image, rows, columns, planes, y, end++, tensor);
        } else {
            make_run(image, rows, columns, planes, {y, x, end, left, columns.first[end - 1] + columns.taps}, tensor);
        }
    }
#endif
}
