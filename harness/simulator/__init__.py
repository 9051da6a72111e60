"""A simulated node: an iteration-level model of a GPU server, counters that behave like NVML's and RAPL's,
and a virtual clock. Everything it yields says `simulated`; docs/simulator.md lists what is modelled.
"""
