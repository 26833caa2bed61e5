"""Whole steps as graphs: captured once, and run as one program at every call.

capture.py    runs a function without computing and writes down what it would do
guards.py     the Python values that a captured function depends on
graph.py      what is written down: values and nodes
executor.py   runs a graph with a backend's kernels
compiled.py   `ndl.compile`: signatures, state, calls
"""
