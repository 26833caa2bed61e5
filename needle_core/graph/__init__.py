"""Whole steps as graphs: captured once, made smaller, planned, and run at every call.

    capture.py    runs a function without computing and writes down what it would do
    guards.py     the Python values that a captured function depends on
    graph.py      what is written down: values and nodes
    passes.py     graphs that compute the same with less
    fuse.py       groups of elementwise nodes and their reductions become one node with a program
    memory.py     where each value lives in one arena, and what may be overwritten
    plan.py       all of that together: what a backend compiles
    executor.py   runs any plan with a backend's kernels
    compiled.py   `ndl.compile`: signatures, state, calls
"""
