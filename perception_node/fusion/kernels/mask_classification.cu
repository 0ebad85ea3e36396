// Mask classification (MaskFormer, Cheng et al. 2021, and its kin): class logits and mask logits of Q queries.
//
// Compiled for one variant:
//   MASK2FORMER   (Cheng et al. 2022)  p = score * sigmoid(mask); a query's area is where sigmoid(mask) >= 0.5
//   TRANSFORMERS  (the library's post-processing)  the same on masks resized to a square first, area where p >= 0.5
//   KMAX          (kMaX-DeepLab, Yu et al. 2022)  p = softmax of the masks over the queries
// A frame: memset, score_queries, list_queries, then
//   MASK2FORMER: survey, shortlist_queries, pick, judge
//   TRANSFORMERS: survey_resized, shortlist_queries, resize_masks, pick, judge
//   KMAX: survey, shortlist_queries, contest, judge_contest, resolve
// and finish, total_measures. K = Q; the queries that count are listed first, in order, and called slots.
#include "common.cuh"

#ifdef TRANSFORMERS
typedef float Mask;  // probabilities, resized
#else
typedef LOGIT Mask;  // logits
#endif

// ---- queries ----

// Softmax over a query's classes, void being the last.
//   class_logits (Q, C + 1) LOGIT; label (Q,) uint8, score (Q,) float32; keep (Q,) uint8
//   one thread for each query
// MASK2FORMER, TRANSFORMERS: kept if the best class is not void and its score above `things_above`. KMAX: the best class
// but void; kept if above `things_above` or `stuff_above`. Logits that are NaN, or infinite so that the softmax is NaN,
// make the score NaN, and the query is not kept.
extern "C" __global__ void score_queries(const LOGIT* __restrict__ class_logits, int queries, int classes,
                                         const uint8* __restrict__ thing, float things_above, float stuff_above,
                                         uint8* __restrict__ label, float* __restrict__ score,
                                         uint8* __restrict__ keep) {
    const int q = thread_index();
    if (q >= queries) return;
    const LOGIT* const logits = class_logits + q * (classes + 1);
    float peak = -INFINITY;
    for (int c = 0; c <= classes; c++) peak = greater(number(logits[c]), peak);
    float total = 0.0f, best = -INFINITY;
    int winner = classes;
    for (int c = 0; c <= classes; c++) {
        const float value = number(logits[c]), below = value - peak;
        total += below == below ? exponential(below) : NAN;
#ifdef KMAX
        if (c == classes) break;
#endif
        if (value > best) best = value, winner = c;
    }
    const float p = exponential(best - peak) / total;
    label[q] = winner < classes ? winner : UNLABELLED, score[q] = p;
    keep[q] = winner < classes && p > (thing[winner] ? things_above : stuff_above);
}

// The kept queries in order; KMAX: all, for all take part in the softmax.
//   slots (Q,) int32, count (1,) uint32; owner_class (Q,) uint8, owner_score (Q,) float32: of the slots
//   one block of at most 1024
extern "C" __global__ void list_queries(const uint8* __restrict__ label, const float* __restrict__ score,
                                        const uint8* __restrict__ keep, int queries, int* __restrict__ slots,
                                        uint32* __restrict__ count, uint8* __restrict__ owner_class,
                                        float* __restrict__ owner_score) {
#ifdef KMAX
    const bool all = true;
#else
    const bool all = false;
#endif
    const int share = (queries + blockDim.x - 1) / blockDim.x;
    const int begin = threadIdx.x * share, end = min(begin + share, queries);
    uint32 own = 0;
    for (int q = begin; q < end; q++) own += all || keep[q];
    uint32 total, slot = sum_before(own, total);
    if (threadIdx.x == 0) *count = total;
    for (int q = begin; q < end; q++)
        if (all || keep[q]) slots[slot] = q, owner_class[slot] = label[q], owner_score[slot] = score[q], slot++;
}

// The slots that can matter in a block.
//   ranges (blocks, Q) of the mask logits; list (blocks, Q) uint16, in order; length (blocks, 2) int32, the second is of
//   all that are listed; one thread for each block
// MASK2FORMER, TRANSFORMERS: where its highest p reaches the lowest p that another is sure to have, or its mask begins
// or ends. KMAX: first those that can be above 1/3, then those that are not 20 below the best one's lowest: e^-20 is
// below the softmax's last bits. Of two above 1/3 neither has twice the other's, so they are less than 1.2 apart.
extern "C" __global__ void shortlist_queries(const Range* __restrict__ ranges, const uint32* __restrict__ count,
                                             int queries, int blocks, const float* __restrict__ owner_score,
                                             uint16* __restrict__ list, int* __restrict__ length) {
    const int block = thread_index();
    if (block >= blocks) return;
    const Range* const own = ranges + block * queries;
    const int slots = *count;
    int n = 0;
#ifdef KMAX
    float floor_ = -INFINITY;
    for (int s = 0; s < slots; s++) floor_ = greater(own[s].low, floor_);
    const float winning = floor_ - 1.2f - slack(floor_), listed = floor_ - 20.0f - slack(floor_);
    for (int s = 0; s < slots; s++)
        if (own[s].high >= winning) list[block * queries + n++] = s;
    length[2 * block] = n;
    for (int s = 0; s < slots; s++)
        if (own[s].high < winning && own[s].high >= listed) list[block * queries + n++] = s;
#else
    const float margin = 1e-3f;  // far above what rounding can do
    float sure = 0.0f;
    for (int s = 0; s < slots; s++)
        if (own[s].low > -INFINITY) sure = greater(owner_score[s] * sigmoid(own[s].low), sure);
    for (int s = 0; s < slots; s++) {
        const float mask = sigmoid(own[s].high), p = owner_score[s] * mask;
#ifdef TRANSFORMERS
        const bool covers = p >= 0.5f - margin;
#else
        const bool covers = mask >= 0.5f - margin;
#endif
        if (covers || p >= sure * (1.0f - margin)) list[block * queries + n++] = s;
    }
#endif
    length[2 * block + 1] = n;
}

#ifdef TRANSFORMERS
// ---- masks as probabilities on a grid of another size; of each block those that are listed ----

constexpr int SIDE = CELLS + 1;  // samples of a block's side: neighbouring blocks both have those of their border
constexpr int SQUARE = SIDE * SIDE;

// The ranges of mask logits around the blocks of the grid.
//   rows, columns: the grid among the logits; ranges (blocks, Q); one thread for each slot of each block
extern "C" __global__ void survey_resized(const LOGIT* __restrict__ mask_logits, const int* __restrict__ slots,
                                          const uint32* __restrict__ count, int queries, Axis rows, Axis columns,
                                          Range* __restrict__ ranges) {
    const int across = blocks_of(columns.pixels), blocks = blocks_of(rows.pixels) * across;
    const int index = thread_index(), s = index / blocks, block = index - s * blocks;
    if (s >= (int)*count) return;
    const int y = block / across * CELLS, x = block % across * CELLS;
    const int bottom = rows.low[min(y + CELLS, rows.pixels - 1)] + 1;
    const int right = columns.low[min(x + CELLS, columns.pixels - 1)] + 1;
    ranges[block * queries + s] =
        range(mask_logits + slots[s] * rows.samples * columns.samples, columns.samples, rows.low[y],
               min(bottom, rows.samples - 1), columns.low[x], min(right, columns.samples - 1));
}

// Mask logits -> probabilities.
//   mask_logits (Q, h, w) LOGIT; rows, columns: the grid among the logits
//   resized (blocks, Q, SIDE, SIDE) float32: of each block as many as its shortlist has
//   one thread for each row of each block
extern "C" __global__ void resize_masks(const LOGIT* __restrict__ mask_logits, const int* __restrict__ slots,
                                        int queries, Axis rows, Axis columns, const uint16* __restrict__ list,
                                        const int* __restrict__ length, float* __restrict__ resized) {
    const int across = blocks_of(columns.pixels), blocks = blocks_of(rows.pixels) * across;
    const int index = thread_index(), block = index / SIDE, row = index - block * SIDE;
    if (block >= blocks) return;
    const int y = min(block / across * CELLS + row, rows.pixels - 1), left = block % across * CELLS;
    for (int k = 0; k < length[2 * block + 1]; k++) {
        const int s = list[block * queries + k];
        const LOGIT* const plane = mask_logits + slots[s] * rows.samples * columns.samples;
        float* const out = resized + (block * queries + k) * SQUARE + row * SIDE;
        for (int i = 0; i < SIDE; i++) out[i] = sample(plane, rows, columns, y, min(left + i, columns.pixels - 1));
        for (int i = 0; i < SIDE; i++) out[i] = sigmoid(out[i]);
    }
}
#endif

#ifndef KMAX
// ---- the pixels choose, the queries are judged ----

// Pixels of a query: those that it won, where its mask covers them and (MASK2FORMER) where not; all that its mask covers.
struct Areas {
    uint32 covered, uncovered, all;
};

// Gives each pixel to the query with the highest p, and counts for each what it won and what its mask covers.
//   masks: MASK2FORMER mask_logits (Q, h, w) LOGIT, TRANSFORMERS resized (blocks, Q, SIDE, SIDE) float32
//   list, length: the blocks' shortlists
//   owners (H, W) uint16: 1 + slot, or 0 (MASK2FORMER: also where the winner's mask is below 0.5)
//   class_map (H, W) uint8 becomes 255 (labels come with the owners), confidence (H, W) uint8 is p
//   areas (STRIPES, Q), zeroed; one thread for each tile; reads what is listed of the masks once, writes 4 bytes a pixel
// A query is interpolated only where its highest corner, at the best score there is, reaches the lowest p that another
// is sure to have, or where its mask begins or ends.
extern "C" __global__ void pick(const Mask* __restrict__ masks, const int* __restrict__ slots,
                                int queries, Axis rows, Axis columns, const uint16* __restrict__ list,
                                const int* __restrict__ length, const float* __restrict__ owner_score,
                                uint16* __restrict__ owners,
                                uint8* __restrict__ class_map, uint8* __restrict__ confidence,
                                Areas* __restrict__ areas) {
    const int index = thread_index();
    if (index >= rows.tiles * columns.tiles) return;
    Tile tile = tile_at(rows, columns, index);
    const int block = block_of(columns, tile), n = length[2 * block + 1];
    list += block * queries;
#ifdef TRANSFORMERS
    masks += (uint64)block * queries * SQUARE;
    const int below = tile.corner[2] == tile.corner[0] ? 0 : SIDE, beside = tile.corner[1] - tile.corner[0];
    tile.corner[0] = tile.row % CELLS * SIDE + tile.column % CELLS, tile.corner[1] = tile.corner[0] + beside;
    tile.corner[2] = tile.corner[0] + below, tile.corner[3] = tile.corner[2] + beside;
#else
    const int plane = rows.samples * columns.samples;
#endif

    float floor_ = -INFINITY;
    int favourite = -1;
    for (int k = 0; k < n; k++) {
        const int s = list[k];
#ifdef TRANSFORMERS
        const Corners corner = corners(masks + k * SQUARE, tile);
#else
        const Corners corner = corners(masks + slots[s] * plane, tile);
#endif
        const float low = corner.low();
        if (low > floor_ && corner.finite()) floor_ = low, favourite = s;
    }
    float cut = -INFINITY;  // masks that stay below it lose
    if (favourite >= 0) {
        const float margin = 1.0f - 1e-5f;
#ifdef TRANSFORMERS
        cut = owner_score[favourite] * floor_ * margin;
#else
        const float sure = owner_score[favourite] * sigmoid(floor_) * margin;
        if (sure > 1e-30f) cut = logf(sure / (1.0f - sure)) - 0.02f;
#endif
    }
    const Weights weight = weights_of(tile, rows, columns);
    float best[LANES], value[LANES];
    int winner[LANES];
    for (int i = 0; i < LANES; i++) best[i] = -1.0f, winner[i] = -1;
    Areas* const own = areas + (uint64)stripe() * queries;
    for (int k = 0; k < n; k++) {
        const int s = list[k];
#ifdef TRANSFORMERS
        const Corners corner = corners(masks + k * SQUARE, tile);
        const float half = 0.5f / owner_score[s];
#else
        const Corners corner = corners(masks + slots[s] * plane, tile);
        const float half = 0.0f;
#endif
        const bool finite = corner.finite();
        const float high = corner.high();
        if (finite && high < cut && high < half - 1e-4f) continue;
        interpolate(corner, weight, value);
        uint32 covered = 0;
        for (int i = 0; i < LANES; i++) {
#ifdef TRANSFORMERS
            const float p = owner_score[s] * value[i];
            const bool covers = p >= 0.5f;
#else
            const float mask = sigmoid(value[i]);
            const float p = owner_score[s] * mask;
            const bool covers = mask >= 0.5f;
#endif
            const bool wins = p > best[i];
            best[i] = wins ? p : best[i];
#ifdef TRANSFORMERS
            winner[i] = wins ? s : winner[i];
#else
            winner[i] = wins ? (covers ? s : -2 - s) : winner[i];
#endif
            covered += covers && i / TILE < tile.height && i % TILE < tile.width;
        }
        if (covered) atomicAdd(&own[s].all, covered);
    }
    const int nobody = -1;
    int counted = nobody;
    uint32 won = 0;
    for (int i = 0; i <= LANES; i++) {
        if (i < LANES && (i / TILE >= tile.height || i % TILE >= tile.width)) continue;
        const int s = i < LANES ? winner[i] : nobody;
        if (s != counted) {
            if (counted != nobody) atomicAdd(counted >= 0 ? &own[counted].covered : &own[-2 - counted].uncovered, won);
            counted = s, won = 0;
        }
        won++;
        if (i == LANES) break;
        const int pixel = (tile.y + i / TILE) * columns.pixels + tile.x + i % TILE;
        owners[pixel] = s >= 0 ? s + 1 : 0, class_map[pixel] = UNLABELLED;
        confidence[pixel] = s >= 0 ? (uint8)(255.0f * best[i] + 0.5f) : 0;
    }
}

// Drops queries that lost too much of their mask to others; stuff keeps only its class, things get ids in order.
//   areas (STRIPES, Q); owner_class (Q,) uint8, owner_id (Q,) uint16; class_score (256,) float32: a stuff class's best
//   count_uncovered: whether pixels count that a query won without covering them; one block of at most 1024
extern "C" __global__ void judge(const Areas* __restrict__ areas, const uint32* __restrict__ count, int queries,
                                 double overlap, int count_uncovered, const uint8* __restrict__ thing,
                                 const float* __restrict__ owner_score, uint8* __restrict__ owner_class,
                                 uint16* __restrict__ owner_id, float* __restrict__ class_score) {
    for (int c = threadIdx.x; c < 256; c += blockDim.x) class_score[c] = 0.0f;
    __syncthreads();
    const int n = *count, share = (n + blockDim.x - 1) / blockDim.x;
    const int begin = threadIdx.x * share, end = min(begin + share, n);
    uint32 things = 0;
    for (int s = begin; s < end; s++) {
        uint32 covered = 0, uncovered = 0, all = 0;
        for (int i = 0; i < STRIPES; i++) {
            const Areas& area = areas[i * queries + s];
            covered += area.covered, uncovered += area.uncovered, all += area.all;
        }
        const uint32 won = covered + (count_uncovered ? uncovered : 0);
        const double ratio = all ? (double)won / all : 0.0;
#ifdef TRANSFORMERS
        const bool stays = covered && all && ratio > overlap;
#else
        const bool stays = covered && all && ratio >= overlap;
#endif
        if (!stays) owner_class[s] = UNLABELLED;
        things += thing[owner_class[s]];
        if (stays && !thing[owner_class[s]])  // positive floats are ordered as their bits
            atomicMax((int*)&class_score[owner_class[s]], __float_as_int(owner_score[s]));
    }
    uint32 total, id = sum_before(things, total);
    for (int s = begin; s < end; s++) owner_id[s] = thing[owner_class[s]] ? ++id : 0;
}

#else
// ---- KMAX: confident pixels belong to at most two queries, the queries come in order of their scores ----

struct Claim {
    uint64 probability;  // sum over its pixels, in units of 2^-24
    uint32 area, padding;
};

// Softmax over all queries. With a threshold above 1/3 at most two are above it in a pixel.
//   mask_logits (Q, h, w) LOGIT; first, second (H, W) uint16: 1 + query, or 0; their confidences (H, W) uint8
//   claims (STRIPES, Q), zeroed; overlaps (Q, Q) uint32, zeroed: pixels that two queries share
//   list, length: the blocks' shortlists
//   one thread for each tile; reads what is listed of the masks once, writes 6 bytes a pixel
extern "C" __global__ void contest(const Mask* __restrict__ mask_logits, int queries, Axis rows, Axis columns,
                                   float threshold, const uint16* __restrict__ list, const int* __restrict__ length,
                                   uint16* __restrict__ first, uint16* __restrict__ second,
                                   uint8* __restrict__ first_confidence, uint8* __restrict__ second_confidence,
                                   Claim* __restrict__ claims, uint32* __restrict__ overlaps) {
    const int index = thread_index();
    if (index >= rows.tiles * columns.tiles) return;
    const Tile tile = tile_at(rows, columns, index);
    const int plane = rows.samples * columns.samples, block = block_of(columns, tile);
    const int winners = length[2 * block], listed = length[2 * block + 1];
    list += block * queries;
    float floor_ = -INFINITY;
    for (int k = 0; k < winners; k++) {
        const int q = list[k];
        const Corners corner = corners(mask_logits + q * plane, tile);
        const float low = corner.low();
        if (low > floor_ && corner.finite()) floor_ = low;
    }
    const Weights weight = weights_of(tile, rows, columns);
    float value[LANES], best[LANES], next[LANES], total[LANES];
    int winner[LANES], runner_up[LANES];
    for (int i = 0; i < LANES; i++) best[i] = next[i] = -INFINITY, total[i] = 0.0f, winner[i] = runner_up[i] = -1;
    const float bar = floor_ - 1.2f - slack(floor_);
    for (int k = 0; k < winners; k++) {
        const int q = list[k];
        const Corners corner = corners(mask_logits + q * plane, tile);
        if (corner.high() < bar && corner.finite()) continue;
        interpolate(corner, weight, value);
        for (int i = 0; i < LANES; i++) {
            const bool wins = value[i] > best[i], follows = value[i] > next[i];
            next[i] = wins ? best[i] : follows ? value[i] : next[i];
            runner_up[i] = wins ? winner[i] : follows ? q : runner_up[i];
            best[i] = wins ? value[i] : best[i];
            winner[i] = wins ? q : winner[i];
        }
    }
    for (int k = 0; k < listed; k++) {
        interpolate(corners(mask_logits + list[k] * plane, tile), weight, value);
        for (int i = 0; i < LANES; i++) {
            const float e = exponential(value[i] == best[i] ? 0.0f : value[i] - best[i]);  // inf - inf is NaN
            total[i] += value[i] == value[i] ? e : 0.0f;
        }
    }
    Claim* const own = claims + (uint64)stripe() * queries;
    for (int i = 0; i < LANES; i++) {
        if (i / TILE >= tile.height || i % TILE >= tile.width) continue;
        const int pixel = (tile.y + i / TILE) * columns.pixels + tile.x + i % TILE;
        const float p = winner[i] >= 0 ? 1.0f / total[i] : 0.0f;
        const float p2 = runner_up[i] >= 0 ? exponential(next[i] == best[i] ? 0.0f : next[i] - best[i]) / total[i] : 0.0f;
        const int a = p > threshold ? winner[i] : -1, b = p2 > threshold ? runner_up[i] : -1;
        first[pixel] = a + 1, second[pixel] = b + 1;
        first_confidence[pixel] = (uint8)(255.0f * p + 0.5f), second_confidence[pixel] = (uint8)(255.0f * p2 + 0.5f);
        if (a >= 0) {
            atomicAdd(&own[a].area, 1);
            atomicAdd(&own[a].probability, (uint64)(p * 16777216.0f + 0.5f));
        }
        if (b >= 0) {
            atomicAdd(&own[b].area, 1);
            atomicAdd(&own[b].probability, (uint64)(p2 * 16777216.0f + 0.5f));
            atomicAdd(&overlaps[a * queries + b], 1);
            atomicAdd(&overlaps[b * queries + a], 1);
        }
    }
}

// Takes the queries in descending order of class score * mean probability; a confident one stays if most of its pixels
// are still free.
//   claims (STRIPES, Q); overlaps (Q, Q); keep (Q,) uint8; rank (Q,) int32: place among those that stay, or Q
//   owner_class, owner_id, class_score as in MASK2FORMER's judge; one block of at most 1024
// Free pixels: as no pixel has three claims, those that it shares with queries that stay are all different.
extern "C" __global__ void judge_contest(Claim* claims, const uint32* __restrict__ overlaps,
                                         const uint8* __restrict__ keep, int queries, double overlap,
                                         const uint8* __restrict__ thing, const float* __restrict__ owner_score,
                                         float* order_score, int* order, int* rank, uint8* __restrict__ owner_class,
                                         uint16* __restrict__ owner_id, float* __restrict__ class_score) {
    __shared__ uint32 taken;
    for (int c = threadIdx.x; c < 256; c += blockDim.x) class_score[c] = 0.0f;
    for (int q = threadIdx.x; q < queries; q += blockDim.x) {
        for (int s = 1; s < STRIPES; s++) {
            claims[q].area += claims[s * queries + q].area;
            claims[q].probability += claims[s * queries + q].probability;
        }
        const uint32 area = claims[q].area;
        const float mean = area ? (float)((double)claims[q].probability / 16777216.0 / area) : 0.0f;
        const float score = owner_score[q] * mean;
        order_score[q] = score == score ? score : -1.0f, rank[q] = queries;
    }
    __syncthreads();
    for (int q = threadIdx.x; q < queries; q += blockDim.x) {
        int place = 0;
        for (int i = 0; i < queries; i++)
            place += order_score[i] > order_score[q] || (order_score[i] == order_score[q] && i < q);
        order[place] = q;
    }
    __syncthreads();
    int stayed = 0, things = 0;
    for (int place = 0; place < queries; place++) {
        const int q = order[place];
        const uint32 area = claims[q].area;
        if (!keep[q] || !area) {
            if (threadIdx.x == 0) owner_class[q] = UNLABELLED, owner_id[q] = 0;
            continue;
        }
        __syncthreads();
        if (threadIdx.x == 0) taken = 0;
        __syncthreads();
        uint32 shared = 0;
        for (int i = threadIdx.x; i < queries; i += blockDim.x)
            if (rank[i] < queries) shared += overlaps[i * queries + q];
        if (shared) atomicAdd(&taken, shared);
        __syncthreads();
        const bool stays = area - taken > overlap * area;
        if (stays && thing[owner_class[q]]) things++;
        __syncthreads();
        if (threadIdx.x == 0) {
            const int label = owner_class[q];
            if (stays) rank[q] = stayed;
            owner_id[q] = stays && thing[label] ? things : 0;
            if (!stays) owner_class[q] = UNLABELLED;
            if (stays && !thing[label]) class_score[label] = greater(class_score[label], owner_score[q]);
        }
        stayed += stays;
    }
}

// Of a pixel's two claims the earlier one that stays.
//   owners (H, W) uint16 is `first` on entry, confidence its confidence; class_map becomes 255
//   one thread for each STRIP pixels, by index
extern "C" __global__ void resolve(uint32 pixels, const int* __restrict__ rank, int queries,
                                   const uint16* __restrict__ second, const uint8* __restrict__ second_confidence,
                                   uint16* __restrict__ owners, uint8* __restrict__ confidence,
                                   uint8* __restrict__ class_map) {
    const uint32 begin = (uint32)thread_index() * STRIP;
    if (begin >= pixels) return;
    const uint32 end = min(begin + STRIP, pixels);
    for (uint32 pixel = begin; pixel < end; pixel++) {
        const int a = owners[pixel], b = second[pixel];
        class_map[pixel] = UNLABELLED;
        if (b && rank[b - 1] < rank[a - 1]) owners[pixel] = b, confidence[pixel] = second_confidence[pixel];
    }
}
#endif
