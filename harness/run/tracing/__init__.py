"""A port as a jaxpr: taps that sit anywhere in traced code are recorded and replaced, and narrow floats lifted.

mark.py       the primitive that marks a value as a tap
numbering.py  which of several calls is which tap
answers.py    models that look at values while they are traced
origins.py    which function and line an equation comes from
evaluate.py   runs a jaxpr, opening nested code down to the taps
lift.py       the arithmetic of float64 in place of float32, bfloat16 and float16
program.py    what of a traced program is which tap, in which arithmetic; what is refused
steps.py      a port's calls, traced and compiled, with their taps carried in and out, through a cache or without
"""
