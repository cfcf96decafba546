// The operators pixel_map_fwd and pixel_map_bwd on the CPU, float and double; rlv2v_fast/ops/pixel_map.py checks
// shapes.
#include "pixelwise/cpu/pixel_map.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "common/parallel.h"
#include "common/scratch.h"
#include "pixelwise/cpu/operators.h"
#include "pixelwise/cpu/pixel_map_simd.h"

namespace rlv2v {
namespace {

// Pixels whose work repays waking a second thread.
constexpr int64_t kPixelGrain = 384;
// The gradient's sums are taken over chunks of pixels, which depend on the shape alone, and then added in order: so the
// number of threads changes no bit. More chunks would take more memory: a chunk has some 100 kB of sums.
constexpr int64_t kChunkPixels = 2304, kMostChunks = 16;

constexpr int kParameters = 11;

// The parameters in the order of the operator's arguments, contiguous.
struct ParameterTensors {
  std::vector<Tensor> all;
  bool has_table;

  ParameterTensors(std::initializer_list<const Tensor*> tensors, const MaybeTensor& table) : has_table(table) {
    for (const Tensor* tensor : tensors) all.push_back(torch::stable::contiguous(*tensor));
    if (table) all.push_back(torch::stable::contiguous(*table));
  }
};

template <class T, class Of>
PixelMapParameters<T> pointers(const Of& of, bool has_table) {
  return {of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7), of(8), of(9), has_table ? of(10) : nullptr};
}

template <class T>
PixelMapParameters<const T> pointers(const ParameterTensors& parameters) {
  return pointers<const T>([&](int i) { return parameters.all[i].template const_data_ptr<T>(); }, parameters.has_table);
}

PixelMapShape shape_of(const Tensor& frames, const ParameterTensors& p) {
  return {frames.size(0),
          frames.size(2),
          frames.size(3),
          frames.size(1),
          p.all[0].size(0),
          p.all[2].size(0),
          p.has_table ? p.all[10].size(2) : 0};
}

std::vector<int64_t> sizes_of(const Tensor& x) { return {x.sizes().begin(), x.sizes().end()}; }

// A call with the parameters packed into `packed`.
template <class T>
PixelMap<T> prepare(const PixelMapShape& s, double gain, double speed, double slope, bool clamp, bool rounded,
                    const Tensor& frames, const PixelMapParameters<const T>& parameters, T* packed) {
  const PixelMap<T> call{
      s, static_cast<T>(gain), static_cast<T>(speed), static_cast<T>(slope), clamp, frames.const_data_ptr<T>(), packed};
  RLV2V_BEST(pack_pixel_map(call, parameters, rounded, packed));
  return call;
}

template <class T>
bool rounds(const PixelMapShape& s, bool rounded) {
  return rounded && has_bfloat16_products() && RLV2V_BEST(can_round_pixel_map(s, T{}));
}

}  // namespace

Tensor pixel_map_fwd(const Tensor& frames_any, const Tensor& project, const Tensor& project_bias, const Tensor& weight1,
                     const Tensor& bias1, const Tensor& weight2, const Tensor& bias2, const Tensor& weight3,
                     const Tensor& bias3, const Tensor& head, const Tensor& head_bias, const MaybeTensor& table,
                     double gain, double speed, double slope, bool clamp, bool rounded) {
  const Tensor frames = torch::stable::contiguous(frames_any);
  const ParameterTensors parameters(
      {&project, &project_bias, &weight1, &bias1, &weight2, &bias2, &weight3, &bias3, &head, &head_bias}, table);
  const PixelMapShape s = shape_of(frames, parameters);
  const Tensor y = pooled(frames, sizes_of(frames));
  if (y.numel() == 0) return y;
  for_float_dtype(frames, [&](auto zero) {
    using T = decltype(zero);
    const bool round = rounds<T>(s, rounded);
    const Scratch<T> packed(RLV2V_BEST(packed_pixel_map_size(s, round, T{})));
    const PixelMap<T> call =
        prepare<T>(s, gain, speed, slope, clamp, round, frames, pointers<T>(parameters), packed.get());
    T* to = y.mutable_data_ptr<T>();
    const int64_t size = RLV2V_BEST(pixel_map_fwd_scratch(s, round, T{}));
    parallel_for(0, s.frames * s.pixels(), kPixelGrain, [&](int64_t begin, int64_t end) {
      const Scratch<T> scratch(size);
      RLV2V_BEST(pixel_map_fwd(call, round, begin, end, scratch.get(), to));
    });
  });
  return y;
}

PixelMapGradients pixel_map_bwd(const Tensor& grad_y_any, const Tensor& frames_any, const Tensor& project,
                                const Tensor& project_bias, const Tensor& weight1, const Tensor& bias1,
                                const Tensor& weight2, const Tensor& bias2, const Tensor& weight3, const Tensor& bias3,
                                const Tensor& head, const Tensor& head_bias, const MaybeTensor& table, double gain,
                                double speed, double slope, bool clamp, bool rounded, bool need_frames,
                                bool need_weights, bool need_table) {
  const Tensor frames = torch::stable::contiguous(frames_any), grad_y = torch::stable::contiguous(grad_y_any);
  const ParameterTensors parameters(
      {&project, &project_bias, &weight1, &bias1, &weight2, &bias2, &weight3, &bias3, &head, &head_bias}, table);
  const PixelMapShape s = shape_of(frames, parameters);
  const std::vector<int64_t> none = {0};
  Tensor grad_frames = need_frames ? pooled(frames, sizes_of(frames)) : torch::stable::new_empty(frames, none);
  std::vector<Tensor> grads;
  for (int i = 0; i < kParameters; ++i) {
    const bool needed = i < kParameters - 1 ? need_weights : need_table && table;
    grads.push_back(torch::stable::new_empty(frames, needed ? sizes_of(parameters.all[i]) : none));
  }
  if (frames.numel() == 0) {
    for (Tensor grad : grads) torch::stable::zero_(grad);
  } else {
    for_float_dtype(frames, [&](auto zero) {
      using T = decltype(zero);
      const bool round = rounds<T>(s, rounded);
      const Scratch<T> packed(RLV2V_BEST(packed_pixel_map_size(s, round, T{})));
      const PixelMapGrad<T> call{
          prepare<T>(s, gain, speed, slope, clamp, round, frames, pointers<T>(parameters), packed.get()),
          grad_y.const_data_ptr<T>(), need_frames ? grad_frames.mutable_data_ptr<T>() : nullptr, need_weights,
          need_table && table};
      const int64_t pixels = s.frames * s.pixels();
      const int64_t chunk = std::max(kChunkPixels, (pixels + kMostChunks - 1) / kMostChunks);
      const int64_t chunks = (pixels + chunk - 1) / chunk;
      const int64_t size = RLV2V_BEST(pixel_map_bwd_scratch(s, round, T{}));
      const int64_t sums_size = RLV2V_BEST(pixel_map_sums_size(s, T{}));
      const Scratch<T> sums(chunks * sums_size);
      parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
        const Scratch<T> scratch(size);
        for (int64_t i = begin; i < end; ++i) {
          T* of_chunk = sums.get() + i * sums_size;
          std::memset(of_chunk, 0, sums_size * sizeof(T));
          RLV2V_BEST(pixel_map_bwd(call, round, i * chunk, std::min(pixels, (i + 1) * chunk), scratch.get(), of_chunk));
        }
      });
      if (!call.to_weights && !call.to_table) return;
      for (int64_t i = 1; i < chunks; ++i)
        for (int64_t j = 0; j < sums_size; ++j) sums.get()[j] += sums.get()[i * sums_size + j];
      RLV2V_BEST(unpack_pixel_map_sums(
          call, sums.get(),
          pointers<T>([&](int i) { return grads[i].template mutable_data_ptr<T>(); }, call.to_table)));
    });
  }
  return {grad_frames, grads[0], grads[1], grads[2], grads[3], grads[4],
          grads[5],    grads[6], grads[7], grads[8], grads[9], grads[10]};
}

}  // namespace rlv2v
