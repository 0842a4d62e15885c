// Adapters of a decode step on a CPU: y[t] += scale * B[slot(t)] (A[slot(t)] x[t]) for each row t, its own slot only.
//
// Rows of one slot form groups of at most 16. A group's rows become the lanes of a panel, so that both products are the
// same loop: a weight is read once, in the order in which vLLM keeps it, and multiplied with a panel's row. Nothing is
// gathered, copied or cached, whatever vLLM writes into a slot between two steps.
//
// Axes: T rows, I inputs, O outputs of one slice, R ranks, W lanes (8 or 16). Weights as vLLM keeps them, for each output
// slice of a module: a[S][R_max][I], b[S][O][R_max], contiguous. Plain C interface, called through ctypes by kernel.py.

#include <cstdint>
#include <cstring>

namespace {

constexpr int kMaxSlices = 8;
constexpr int kLanes = 8;
constexpr int kOutputsPerTask = 32;  // small enough to share a k or v projection of 192 between cores

using V = float __attribute__((vector_size(32)));
using Mask = int32_t __attribute__((vector_size(32)));
struct Bf16 { uint16_t bits; };

inline float load(const float* p) { return *p; }
inline float load(const Bf16* p) {
  uint32_t bits = uint32_t(p->bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline void store(float* p, float value) { *p = value; }
inline void store(Bf16* p, float value) {  // round to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  p->bits = value != value ? uint16_t(bits >> 16 | 0x40) : uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline V splat(float value) { return V{value, value, value, value, value, value, value, value}; }
inline V load_lanes(const float* p) { V v; std::memcpy(&v, p, sizeof v); return v; }
inline V load_eight(const float* p) { return load_lanes(p); }
inline V load_eight(const Bf16* p) { return V{load(p), load(p + 1), load(p + 2), load(p + 3), load(p + 4), load(p + 5), load(p + 6), load(p + 7)}; }
inline void store_lanes(float* p, V v) { std::memcpy(p, &v, sizeof v); }

// out[n][W] = sum_k rows[n][k] * panel[k][W], for N matrix rows at a time; P panels of 8 lanes side by side. Unrolled by
// hand: else the compiler keeps the sums in memory, which halves the speed of the short products over ranks.
template <int N, int P, typename T>
[[gnu::always_inline]] inline void products(const T* rows, int64_t stride, int64_t count, const float* panel, float* out) {
  V sums[N][P];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) sums[n][p] = V{};
  for (int64_t k = 0; k < count; ++k) {
    V lanes[P];
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) lanes[p] = load_lanes(panel + (k * P + p) * kLanes);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      V weight = splat(load(rows + n * stride + k));
#pragma GCC unroll 2
      for (int p = 0; p < P; ++p) sums[n][p] += weight * lanes[p];
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 2
    for (int p = 0; p < P; ++p) store_lanes(out + (n * P + p) * kLanes, sums[n][p]);
}

template <int P, typename T>
void all_products(const T* rows, int64_t stride, int64_t row_count, int64_t count, const float* panel, float* out) {
  constexpr int N = P == 1 ? 8 : 4;  // eight accumulators keep both multiply-add units of a core busy
  int64_t n = 0;
  for (; n + N <= row_count; n += N) products<N, P>(rows + n * stride, stride, count, panel, out + n * P * kLanes);
  for (; n < row_count; ++n) products<1, P>(rows + n * stride, stride, count, panel, out + n * P * kLanes);
}

inline void add_eight(float* p, V v) { store_lanes(p, load_lanes(p) + v); }
inline void add_eight(Bf16* p, V v) {
  for (int i = 0; i < 8; ++i) store(p + i, load(p + i) + v[i]);
}

// The transpose of 8 x 8 floats.
[[gnu::always_inline]] inline void transpose(V v[8]) {
  const Mask low = {0, 8, 1, 9, 4, 12, 5, 13}, high = {2, 10, 3, 11, 6, 14, 7, 15};
  const Mask low2 = {0, 1, 8, 9, 4, 5, 12, 13}, high2 = {2, 3, 10, 11, 6, 7, 14, 15};
  const Mask low4 = {0, 1, 2, 3, 8, 9, 10, 11}, high4 = {4, 5, 6, 7, 12, 13, 14, 15};
  V a[8], b[8];
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], low);
    a[2 * i + 1] = __builtin_shuffle(v[2 * i], v[2 * i + 1], high);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      b[4 * i + 2 * j] = __builtin_shuffle(a[4 * i + j], a[4 * i + 2 + j], low2);
      b[4 * i + 2 * j + 1] = __builtin_shuffle(a[4 * i + j], a[4 * i + 2 + j], high2);
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    v[i] = __builtin_shuffle(b[i], b[i + 4], low4);
    v[i + 4] = __builtin_shuffle(b[i], b[i + 4], high4);
  }
}

// y[row][o] += scale * out[o][lane], for the group's rows and `count` outputs.
template <int P, typename T>
void add_outputs(const float* out, int64_t count, const int32_t* rows, int row_count, T* y, int64_t y_stride, float scale) {
  int64_t o = 0;
  for (; o + 8 <= count; o += 8)
    for (int p = 0; p < P && p * kLanes < row_count; ++p) {
      V v[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) v[i] = load_lanes(out + ((o + i) * P + p) * kLanes);
      transpose(v);
#pragma GCC unroll 8
      for (int lane = 0; lane < 8; ++lane)
        if (p * kLanes + lane < row_count) add_eight(y + rows[p * kLanes + lane] * y_stride + o, v[lane] * splat(scale));
    }
  for (; o < count; ++o)
    for (int lane = 0; lane < row_count; ++lane) {
      T* to = y + rows[lane] * y_stride + o;
      store(to, load(to) + scale * out[o * P * kLanes + lane]);
    }
}

}  // namespace

extern "C" {

// One module's weights. `outputs` are the slices' widths in y, from column 0; `b_outputs` the rows of b, which may differ by padding.
struct LuthierModule {
  int32_t slice_count, rank_max;
  int64_t inputs;
  int64_t outputs[kMaxSlices], b_outputs[kMaxSlices];
  const void* a[kMaxSlices];
  const void* b[kMaxSlices];
};

// The step's rows: `order` lists the rows with an adapter, group after group; group g is order[begins[g]:begins[g + 1]].
struct LuthierRows {
  int32_t group_count;
  const int32_t *order, *begins, *slots;
};

// Rows of A up to the last that holds anything: the real rank of what vLLM put into the slot.
int32_t luthier_rank(const void* a, int32_t element_bytes, int32_t rank_max, int64_t inputs, int32_t slot) {
  int64_t row_bytes = inputs * element_bytes;
  auto* begin = static_cast<const unsigned char*>(a) + slot * rank_max * row_bytes;
  for (int32_t rank = rank_max; rank > 0; --rank) {
    const unsigned char* row = begin + (rank - 1) * row_bytes;
    if (row[0] != 0 || std::memcmp(row, row + 1, row_bytes - 1) != 0) return rank;
  }
  return 0;
}

}  // extern "C"

namespace {

template <typename T>
struct Step {
  const LuthierModule& module;
  const LuthierRows& rows;
  const int32_t* ranks;  // [slice][group]
  const T* x;
  int64_t x_stride;
  T* y;
  int64_t y_stride;
  float scale;
  float* scratch;

  int width(int group) const { return rows.begins[group + 1] - rows.begins[group] > kLanes ? 2 * kLanes : kLanes; }
  int64_t panel_floats() const { return module.inputs * 2 * kLanes; }
  int64_t hidden_floats() const { return int64_t(module.slice_count) * module.rank_max * 2 * kLanes; }
  float* panel(int group) const { return scratch + group * (panel_floats() + hidden_floats()); }
  float* hidden(int group, int slice) const {
    return panel(group) + panel_floats() + int64_t(slice) * module.rank_max * 2 * kLanes;
  }

  // Rows become lanes: 8 x 8 blocks are turned in registers, as single numbers a stride apart would miss the cache.
  void pack(int group, int64_t from, int64_t to) const {
    const int32_t* order = rows.order + rows.begins[group];
    const int count = rows.begins[group + 1] - rows.begins[group], lanes = width(group);
    for (int first = 0; first < lanes; first += kLanes) {
      float* out = panel(group) + first;
      int64_t i = from;
      for (; i + 8 <= to; i += 8) {
        V v[8];
#pragma GCC unroll 8
        for (int lane = 0; lane < kLanes; ++lane)
          v[lane] = first + lane < count ? load_eight(x + order[first + lane] * x_stride + i) : V{};
        transpose(v);
#pragma GCC unroll 8
        for (int k = 0; k < 8; ++k) store_lanes(out + (i + k) * lanes, v[k]);
      }
      for (; i < to; ++i)
        for (int lane = 0; lane < kLanes; ++lane)
          out[i * lanes + lane] = first + lane < count ? load(x + order[first + lane] * x_stride + i) : 0.0f;
    }
  }

  void shrink(int group, int slice, int first, int count) const {
    const T* a = static_cast<const T*>(module.a[slice]) +
                 (int64_t(rows.slots[group]) * module.rank_max + first) * module.inputs;
    if (width(group) == kLanes)
      all_products<1>(a, module.inputs, count, module.inputs, panel(group), hidden(group, slice) + first * kLanes);
    else
      all_products<2>(a, module.inputs, count, module.inputs, panel(group), hidden(group, slice) + first * 2 * kLanes);
  }

  void expand(int group, int slice, int64_t left, int64_t first, int64_t count) const {
    float out[kOutputsPerTask * 2 * kLanes];
    int begin = rows.begins[group], row_count = rows.begins[group + 1] - begin, rank = ranks[slice * rows.group_count + group];
    const T* b = static_cast<const T*>(module.b[slice]) +
                 (int64_t(rows.slots[group]) * module.b_outputs[slice] + first) * module.rank_max;
    if (width(group) == kLanes) {
      all_products<1>(b, module.rank_max, count, rank, hidden(group, slice), out);
      add_outputs<1>(out, count, rows.order + begin, row_count, y + left + first, y_stride, scale);
    } else {
      all_products<2>(b, module.rank_max, count, rank, hidden(group, slice), out);
      add_outputs<2>(out, count, rows.order + begin, row_count, y + left + first, y_stride, scale);
    }
  }

  void run() const {
    constexpr int kRanksPerTask = 8, kInputsPerTask = 256;
    const int groups = rows.group_count, slices = module.slice_count;
    const int packs = int((module.inputs + kInputsPerTask - 1) / kInputsPerTask);
    const int rank_tasks = (module.rank_max + kRanksPerTask - 1) / kRanksPerTask;
#pragma omp parallel
    {
#pragma omp for collapse(2) schedule(static)
      for (int g = 0; g < groups; ++g)
        for (int task = 0; task < packs; ++task) {
          int64_t from = int64_t(task) * kInputsPerTask;
          pack(g, from, from + kInputsPerTask < module.inputs ? from + kInputsPerTask : module.inputs);
        }
#pragma omp for collapse(3) schedule(static)
      for (int g = 0; g < groups; ++g)
        for (int s = 0; s < slices; ++s)
          for (int task = 0; task < rank_tasks; ++task) {
            int first = task * kRanksPerTask, left = ranks[s * groups + g] - first;
            if (left > 0) shrink(g, s, first, left < kRanksPerTask ? left : kRanksPerTask);
          }
      // Not collapsed: the slices' widths differ. Every thread takes its share of each one; no wait between them.
      int64_t column = 0;
      for (int s = 0; s < slices; ++s) {
        int64_t width = module.outputs[s] < module.b_outputs[s] ? module.outputs[s] : module.b_outputs[s];
        int tasks = int((width + kOutputsPerTask - 1) / kOutputsPerTask);
#pragma omp for collapse(2) schedule(static) nowait
        for (int g = 0; g < groups; ++g)
          for (int task = 0; task < tasks; ++task) {
            int64_t first = int64_t(task) * kOutputsPerTask, left = width - first;
            if (ranks[s * groups + g] > 0) expand(g, s, column, first, left < kOutputsPerTask ? left : kOutputsPerTask);
          }
        column += module.outputs[s];
      }
    }
  }
};

}  // namespace

extern "C" {

// Floats of scratch memory that a call needs.
int64_t luthier_scratch(const LuthierModule* module, int32_t group_count) {
  return group_count * (module->inputs + int64_t(module->slice_count) * module->rank_max) * 2 * kLanes;
}

// Adds the adapters' part to y. `ranks` is [slice][group]; `is_bf16` tells the type of x, y and the weights.
void luthier_add(const LuthierModule* module, const LuthierRows* rows, const int32_t* ranks, const void* x, int64_t x_stride,
                 void* y, int64_t y_stride, float scale, int32_t is_bf16, float* scratch) {
  if (is_bf16)
    Step<Bf16>{*module, *rows, ranks, static_cast<const Bf16*>(x), x_stride, static_cast<Bf16*>(y), y_stride, scale, scratch}.run();
  else
    Step<float>{*module, *rows, ranks, static_cast<const float*>(x), x_stride, static_cast<float*>(y), y_stride, scale, scratch}.run();
}

}  // extern "C"
