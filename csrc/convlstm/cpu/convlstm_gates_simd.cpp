// Loops of convlstm_gates over the state elements [begin, end), compiled once per instruction set.
#include <algorithm>

#include "convlstm/cpu/convlstm_gates_simd.h"

namespace rlv2v::RLV2V_ISA {
namespace {

template <class Op>
void for_elements(const Op& op, int64_t begin, int64_t end) {
  int64_t row = begin / op.inner, column = begin % op.inner;
  while (begin < end) {
    const int64_t stop = std::min(op.inner, column + end - begin);
#pragma GCC ivdep
    for (int64_t j = column; j < stop; ++j) op(row, j);
    begin += stop - column;
    column = 0;
    ++row;
  }
}

}  // namespace

void convlstm_gates_fwd(const ConvLSTMGatesFwd<float>& op, int64_t begin, int64_t end) { for_elements(op, begin, end); }
void convlstm_gates_fwd(const ConvLSTMGatesFwd<double>& op, int64_t begin, int64_t end) {
  for_elements(op, begin, end);
}
void convlstm_gates_bwd(const ConvLSTMGatesBwd<float>& op, int64_t begin, int64_t end) { for_elements(op, begin, end); }
void convlstm_gates_bwd(const ConvLSTMGatesBwd<double>& op, int64_t begin, int64_t end) {
  for_elements(op, begin, end);
}

}  // namespace rlv2v::RLV2V_ISA
