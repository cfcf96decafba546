#include "convlstm/convlstm_gates.h"

#include "common/parallel.h"
#include "common/vector.h"

namespace rlv2v::RLV2V_ISA {
namespace {

template <class Functor>
void over_range(const Functor& functor, int64_t begin, int64_t end) {
  int64_t row = begin / functor.inner, column = begin % functor.inner;
  while (begin < end) {
    const int64_t stop = smaller(functor.inner, column + end - begin);
#pragma GCC ivdep
    for (int64_t j = column; j < stop; ++j) functor(row, j);
    begin += stop - column;
    column = 0;
    ++row;
  }
}

template <class Functor>
void over_elements(const Functor& functor, int64_t count) {
  parallel_for(0, count, kElementGrain, [&](int64_t begin, int64_t end) { over_range(functor, begin, end); });
}

}  // namespace

void run(const ConvLSTMGatesFwd<float>& functor, int64_t count) { over_elements(functor, count); }
void run(const ConvLSTMGatesFwd<double>& functor, int64_t count) { over_elements(functor, count); }
void run(const ConvLSTMGatesBwd<float>& functor, int64_t count) { over_elements(functor, count); }
void run(const ConvLSTMGatesBwd<double>& functor, int64_t count) { over_elements(functor, count); }

}  // namespace rlv2v::RLV2V_ISA
