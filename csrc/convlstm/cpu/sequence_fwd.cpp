// The time loop forward.
#include "convlstm/cpu/kernels.h"

namespace rlv2v {

template <class T>
void convlstm_sequence_fwd(const ConvLSTMInputs<T>& in, const ConvLSTMOutputs<T>& out) {
  const ConvLSTMShape& s = in.shape;
  const int64_t state = s.pixels() * s.hidden;
  StepKernels<T> kernels(in);
  const Scratch<T> x(s.pixels() * s.channels), h_even(state), h_odd(state), cell(out.cells ? 0 : state);
  const Scratch<T> h0 = pack_state(s, in.h0), c0 = pack_state(s, in.c0);
  ConvLSTMStep<T> step{};
  step.x = x.get();
  step.h = h0.get();
  step.c = c0.get();
  for (int64_t t = 0; t < in.steps; ++t) {
    pack_frames(s, s.channels, in.x, t, x.get());
    step.h_next = t % 2 ? h_odd.get() : h_even.get();
    step.c_next = out.cells ? out.cells + t * state : cell.get();
    step.gates = out.gates ? out.gates + t * 4 * state : nullptr;
    kernels.fwd(step);
    unpack_frames(s, s.hidden, step.h_next, out.output, t);
    step.h = step.h_next;
    step.c = step.c_next;
  }
  unpack_frames(s, s.hidden, step.h, out.h, 0);
  unpack_frames(s, s.hidden, step.c, out.c, 0);
}

template void convlstm_sequence_fwd(const ConvLSTMInputs<float>&, const ConvLSTMOutputs<float>&);
template void convlstm_sequence_fwd(const ConvLSTMInputs<double>&, const ConvLSTMOutputs<double>&);

}  // namespace rlv2v
