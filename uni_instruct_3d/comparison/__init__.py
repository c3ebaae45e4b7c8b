"""The pieces of scripts/compare.py: a matrix of method x prompt x seed, run, scored and put into one table.

In the order of the work: :mod:`matrix` (what there is to run), :mod:`engines` (where it runs), :mod:`cell` (one run),
:mod:`stages` (its stages, with what they cost), :mod:`scores`, then :mod:`table`, :mod:`page`.
"""
