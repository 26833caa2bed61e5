// What Python sees. Buffers are NumPy arrays; nothing in here calls back.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include "attention.h"
#include "calls.h"
#include "convolution.h"
#include "elementwise.h"
#include "executable.h"
#include "identical.h"
#include "index.h"
#include "pooling.h"
#include "products.h"
#include "program.h"
#include "recurrent.h"
#include "rows.h"
#include "threads.h"
#include "widened.h"

using namespace needle;

namespace {

using LoadTuple = std::tuple<int, DType, Sizes, int64_t>;
using NumberTuple = std::pair<std::variant<int64_t, double>, DType>;
using InstructionTuple = std::tuple<std::string, std::vector<int>, DType>;
using StoreTuple = std::tuple<int, int, DType, Sizes, int64_t, std::string, int>;

std::shared_ptr<Kernel> program(Sizes shape, const std::vector<LoadTuple>& loads, const std::vector<NumberTuple>& numbers,
                                const std::vector<InstructionTuple>& instructions, const std::vector<StoreTuple>& stores) {
  Expression e;
  e.shape = std::move(shape);
  for (auto& [input, dtype, steps, offset] : loads) e.loads.push_back({input, dtype, steps, offset});
  for (auto& number : numbers) e.numbers.push_back(number);
  for (auto& [name, operands, dtype] : instructions) e.instructions.push_back({name, operands, dtype});
  for (auto& [output, reg, dtype, steps, offset, reduction, axes] : stores) {
    e.stores.push_back({output, reg, dtype, steps, offset, reduction, axes});
  }
  return make_program(std::move(e));
}

// A function that makes a kernel, as Python calls it.
template <class... A>
auto maker(std::unique_ptr<Kernel> (*make)(A...)) {
  return [make](const std::remove_cvref_t<A>&... a) { return std::shared_ptr<Kernel>(make(a...)); };
}

}  // namespace

NB_MODULE(NEEDLE_MODULE, m) {
  if (_import_array() < 0) nb::raise_python_error();
  nb::set_leak_warnings(false);  // kernels that ops remember live as long as the process
  m.doc() = "The kernels of the C++ backend, and what runs plans of them.";

  nb::enum_<DType>(m, "DType")
      .value("bool", DType::Bool)
      .value("uint8", DType::UInt8)
      .value("int32", DType::Int32)
      .value("int64", DType::Int64)
      .value("float16", DType::Float16)
      .value("bfloat16", DType::BFloat16)
      .value("float32", DType::Float32)
      .value("float64", DType::Float64);

  nb::class_<Kernel>(m, "Kernel").def_prop_ro("scratch_bytes", &Kernel::scratch_bytes);
  nb::class_<Call>(m, "Call")
      .def(nb::init<std::shared_ptr<const Kernel>, size_t, std::vector<std::pair<Sizes, nb::object>>, bool>(),
           nb::arg("kernel"), nb::arg("inputs"), nb::arg("results"), nb::arg("is_tuple"))
      .def_prop_ro("function", &function<Call>);
  nb::class_<Arranged>(m, "Arranged")
      .def(nb::init<Sizes, bool>(), nb::arg("sizes"), nb::arg("is_order"))
      .def_prop_ro("function", &function<Arranged>);
  nb::class_<Repeated>(m, "Repeated").def(nb::init<Sizes>(), nb::arg("shape")).def_prop_ro("function", &function<Repeated>);
  nb::class_<ProductCall>(m, "ProductCall")
      .def(nb::init<DType, Sizes, Sizes, std::pair<Sizes, nb::object>>(), nb::arg("dtype"), nb::arg("a"), nb::arg("b"),
           nb::arg("result"))
      .def_prop_ro("function", &function<ProductCall>);
  nb::class_<Plan>(m, "Plan")
      .def(nb::init<size_t, std::vector<std::pair<Sizes, nb::object>>, std::vector<nb::object>, std::vector<int>,
                    std::vector<Step>, int64_t>(),
           nb::arg("inputs"), nb::arg("results"), nb::arg("constants"), nb::arg("outputs"), nb::arg("steps"), nb::arg("arena"))
      .def_prop_ro("function", &function<Plan>)
      .def("profile", &Plan::profile);

  nb::class_<Sliding>(m, "Sliding")
      .def(
          "__init__",
          [](Sliding* made, Sizes size, Sizes stride, Sizes before, Sizes after, Sizes dilation) {
            new (made) Sliding{size, stride, before, after, dilation};
          },
          nb::arg("size"), nb::arg("stride"), nb::arg("before"), nb::arg("after"), nb::arg("dilation"));
  nb::class_<Convolution>(m, "Convolution")
      .def(
          "__init__",
          [](Convolution* made, int64_t n, int64_t c, int64_t o, int64_t groups, Sizes s, Sizes t, const Sliding& sliding) {
            new (made) Convolution{n, c, o, groups, s, t, sliding};
          },
          nb::arg("n"), nb::arg("c"), nb::arg("o"), nb::arg("groups"), nb::arg("s"), nb::arg("t"), nb::arg("sliding"));
  nb::class_<Matrices>(m, "Matrices")
      .def(
          "__init__",
          [](Matrices* made, Sizes offsets, int64_t row, int64_t column) { new (made) Matrices{offsets, row, column}; },
          nb::arg("offsets"), nb::arg("row"), nb::arg("column"));
  nb::class_<Attention>(m, "Attention")
      .def(
          "__init__",
          [](Attention* made, int64_t t, int64_t s, int64_t d, int64_t e, const Matrices& q, const Matrices& k,
             const Matrices& v, const Matrices& mask, const Matrices& y, const Matrices& dq, const Matrices& dk,
             const Matrices& dv, DType mask_dtype, bool causal,
             double scale) { new (made) Attention{t, s, d, e, q, k, v, mask, y, dq, dk, dv, mask_dtype, causal, scale}; },
          nb::arg("t"), nb::arg("s"), nb::arg("d"), nb::arg("e"), nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("mask"),
          nb::arg("y"), nb::arg("dq"), nb::arg("dk"), nb::arg("dv"), nb::arg("mask_dtype"), nb::arg("causal"),
          nb::arg("scale"));

  m.def("has_elementwise", &has_elementwise);
  m.def("program", &program, nb::arg("shape"), nb::arg("loads"), nb::arg("numbers"), nb::arg("instructions"),
        nb::arg("stores"));
  m.def("programs", maker(make_programs), nb::arg("programs"), nb::arg("inputs"), nb::arg("outputs"));
  m.def("product", maker(make_product), nb::arg("dtype"), nb::arg("a"), nb::arg("b"), nb::arg("transpose_a") = false,
        nb::arg("transpose_b") = false, nb::arg("bias") = false);
  m.def("take", maker(make_take), nb::arg("dtype"), nb::arg("index"), nb::arg("axis"), nb::arg("outer"), nb::arg("size"),
        nb::arg("inner"), nb::arg("count"));
  m.def("scatter_add", maker(make_scatter_add), nb::arg("dtype"), nb::arg("index"), nb::arg("axis"), nb::arg("outer"),
        nb::arg("size"), nb::arg("inner"), nb::arg("count"), nb::arg("from_zero"));
  m.def("argsort", maker(make_argsort), nb::arg("dtype"), nb::arg("outer"), nb::arg("size"), nb::arg("inner"),
        nb::arg("descending"));
  m.def("cumsum", maker(make_cumsum), nb::arg("dtype"), nb::arg("outer"), nb::arg("size"), nb::arg("inner"));
  m.def("conv", maker(make_conv), nb::arg("dtype"), nb::arg("form"));
  m.def("conv_transpose", maker(make_conv_transpose), nb::arg("dtype"), nb::arg("form"));
  m.def("conv_weight_grad", maker(make_conv_weight_grad), nb::arg("dtype"), nb::arg("form"));
  m.def("max_pool", maker(make_max_pool));
  m.def("max_pool_grad", maker(make_max_pool_grad));
  m.def("avg_pool", maker(make_avg_pool));
  m.def("avg_pool_grad", maker(make_avg_pool_grad));
  m.def("softmax", maker(make_softmax), nb::arg("dtype"), nb::arg("rows"), nb::arg("n"), nb::arg("logarithm"));
  m.def("softmax_grad", maker(make_softmax_grad), nb::arg("dtype"), nb::arg("rows"), nb::arg("n"));
  m.def("cross_entropy", maker(make_cross_entropy), nb::arg("dtype"), nb::arg("label"), nb::arg("rows"), nb::arg("n"),
        nb::arg("reduction"));
  m.def("cross_entropy_grad", maker(make_cross_entropy_grad), nb::arg("dtype"), nb::arg("label"), nb::arg("rows"), nb::arg("n"),
        nb::arg("reduction"), nb::arg("with_loss") = false);
  m.def("layer_norm", maker(make_layer_norm), nb::arg("dtype"), nb::arg("rows"), nb::arg("n"), nb::arg("eps"));
  m.def("layer_norm_grad", maker(make_layer_norm_grad), nb::arg("dtype"), nb::arg("rows"), nb::arg("n"), nb::arg("eps"));
  m.def("attention", maker(make_attention), nb::arg("dtype"), nb::arg("form"));
  m.def("attention_grad", maker(make_attention_grad), nb::arg("dtype"), nb::arg("form"));
  m.def("lstm", maker(make_lstm), nb::arg("dtype"), nb::arg("t"), nb::arg("n"), nb::arg("d"), nb::arg("reverse"));
  m.def("gru", maker(make_gru), nb::arg("dtype"), nb::arg("t"), nb::arg("n"), nb::arg("d"), nb::arg("reverse"));
  m.def("gru_grad", maker(make_gru_grad), nb::arg("dtype"), nb::arg("t"), nb::arg("n"), nb::arg("d"), nb::arg("reverse"));
  m.def("lstm_grad", maker(make_lstm_grad), nb::arg("dtype"), nb::arg("t"), nb::arg("n"), nb::arg("d"), nb::arg("reverse"));
  m.def(
      "sequence",
      [](const std::vector<Step>& steps, int inputs, int outputs, int64_t scratch) {
        return std::shared_ptr<Kernel>(make_sequence(tasks(steps), inputs, outputs, scratch));
      },
      nb::arg("steps"), nb::arg("inputs"), nb::arg("outputs"), nb::arg("scratch") = 0);
  m.def(
      "widened",
      [](std::shared_ptr<Kernel> kernel, const std::vector<std::pair<Sizes, DType>>& inputs,
         const std::vector<std::pair<Sizes, DType>>& outputs) {
        auto specs = [](const auto& from) {
          std::vector<Spec> to;
          for (auto& [shape, dtype] : from) to.push_back({shape, dtype});
          return to;
        };
        return std::shared_ptr<Kernel>(make_widened(std::move(kernel), specs(inputs), specs(outputs)));
      },
      nb::arg("kernel"), nb::arg("inputs"), nb::arg("outputs"));
  m.attr("owns") = owns_function();
  m.attr("alone") = alone_function();
  m.attr("identical") = identical_function();
  m.def("set_num_threads", &set_num_threads, nb::arg("n"));
  m.def("num_threads", &num_threads);
}
