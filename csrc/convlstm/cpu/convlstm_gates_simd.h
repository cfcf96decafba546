#pragma once

#include "common/isa.h"
#include "convlstm/convlstm_gates.h"

RLV2V_DECLARE_SIMD(void convlstm_gates_fwd(const ConvLSTMGatesFwd<float>& op, int64_t begin, int64_t end))
RLV2V_DECLARE_SIMD(void convlstm_gates_fwd(const ConvLSTMGatesFwd<double>& op, int64_t begin, int64_t end))
RLV2V_DECLARE_SIMD(void convlstm_gates_bwd(const ConvLSTMGatesBwd<float>& op, int64_t begin, int64_t end))
RLV2V_DECLARE_SIMD(void convlstm_gates_bwd(const ConvLSTMGatesBwd<double>& op, int64_t begin, int64_t end))
