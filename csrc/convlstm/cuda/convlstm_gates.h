#pragma once

#include "convlstm/convlstm_gates.h"

namespace rlv2v {

// Launch on `stream` (a cudaStream_t) over `count` state elements; return a cudaError_t as int, 0 when launched.
int launch(const ConvLSTMGatesFwd<float>& op, int64_t count, void* stream);
int launch(const ConvLSTMGatesBwd<float>& op, int64_t count, void* stream);
int launch(const ConvLSTMGatesFwd<double>& op, int64_t count, void* stream);
int launch(const ConvLSTMGatesBwd<double>& op, int64_t count, void* stream);

}  // namespace rlv2v
