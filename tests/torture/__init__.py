"""The whole system in real processes, broken from a seed for as long as wanted, then judged: `python -m tests.torture
--help`.
"""
