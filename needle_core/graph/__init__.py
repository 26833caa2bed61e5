"""Whole steps as graphs: captured once, and run as one program at every call.

capture.py    runs a function without computing and writes down what it would do
guards.py     the Python values that a captured function depends on
graph.py      what is written down: values and nodes
passes.py     the same numbers with fewer nodes
fuse.py       groups of elementwise nodes as one
program.py    what a fused node computes: a contract with backends
memory.py     where values lie in one arena
plan.py       all of it together: what a backend compiles
executor.py   runs a graph with a backend's kernels
drawing.py    graphs to look at
compiled.py   `ndl.compile`: signatures, state, calls
"""
