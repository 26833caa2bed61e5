// The expression program of a fused node, run over tiles: every instruction is one loop over a few hundred elements, which stay
// in the first cache from load to store. Elementwise ops, reductions and copies of all kinds are such programs.
#pragma once

#include <memory>
#include <variant>

#include "types.h"

namespace needle {

using Number = std::variant<int64_t, double>;

// Element index[0] * steps[0] + index[1] * steps[1] + ... + offset of an input.
struct Load {
  int input;
  DType dtype;
  Sizes steps;
  int64_t offset;
};

struct Instruction {
  std::string name;
  std::vector<int> operands;  // registers: those of loads come first, then numbers, then instructions
  DType dtype;
};

// A register as output number `output`: its elements at `steps` and `offset`, or reduced over the first or the last axes.
struct Store {
  int output;
  int reg;
  DType dtype;
  Sizes steps;
  int64_t offset;
  std::string reduction;  // "", sum, mean, prod, max, min
  int axes;               // how many axes it is over: positive, the first; negative, the last
};

struct Expression {
  Sizes shape;
  std::vector<Load> loads;
  std::vector<std::pair<Number, DType>> numbers;
  std::vector<Instruction> instructions;
  std::vector<Store> stores;
};

// Throws std::invalid_argument for an instruction that there is not.
std::unique_ptr<Kernel> make_program(Expression expression);

// Programs as one kernel, in one parallel region: of each how many inputs and outputs it has, which come one after the other.
// Throws std::invalid_argument for what is no program, or has a reduction.
std::unique_ptr<Kernel> make_programs(const std::vector<std::shared_ptr<const Kernel>>& programs,
                                      const std::vector<int>& inputs, const std::vector<int>& outputs);

}  // namespace needle
