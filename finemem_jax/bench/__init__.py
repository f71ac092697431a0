"""Benchmarks that print JSON, one object per run: `finemem bench load --path=…`.

A benchmark is one file in this folder: its docstring is the help, `add_arguments(parser)` its options, and
`run(args)` gives a dict of numbers with the unit in the name.
"""
