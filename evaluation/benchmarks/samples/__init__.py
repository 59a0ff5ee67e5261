"""The project's own items of each benchmark, for trying the pipeline out without a download.

make: writes those of the benchmarks that a rule scores.
questions: the multiple-choice questions among them.
"""
