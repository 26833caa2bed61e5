"""Planted bugs, by which the conformance kit itself is tested: each must be caught, and honest code must raise no alarm.

    python -m tests.mutants            every bug against the checks of what it touches
    python -m tests.mutants --seeds 100    and honest code with so many seeds

A bug that escaped the kit once becomes one of these.
"""
