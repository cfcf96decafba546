// rlv2v_fast._C: what was built, and the kernel cores that device code shares with the CPU, callable one element at a
// time so that tests can compare them with float64 mathematics.
#include <pybind11/pybind11.h>

#include "common/activations.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = RLV2V_VERSION;
  info["built_with_torch"] = RLV2V_BUILT_WITH_TORCH;
  info["compiler"] = __VERSION__;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build information and single-element kernel cores of rlv2v_fast.";
  m.def("build_info", &build_info);
  m.def("sigmoid", &rlv2v::sigmoid_of<float>, "sigmoid(x) as the float32 kernels compute it", py::arg("x"));
  m.def("tanh", [](float x) { return rlv2v::tanh_of(x); }, "tanh(x) as the float32 kernels compute it", py::arg("x"));
}
