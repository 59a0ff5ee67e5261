"""Evaluation: models generate completions of benchmarks, and rules, judges and lm-evaluation-harness score them.

Its rooms, each of which imports those after it alone: `report`, `judging`, `scoring`, `harness`, `generation`, `benchmarks`, `answers`,
`engines`, and the modules here:

types: the values that pass between the rooms.
records: reads and writes JSON, JSON Lines and gzip.
sandbox: calls a function in a child process that is killed when it takes too long.
spending: prices, counts and caps the calls of paid endpoints.
statistics: rates with their errors and intervals.
paired: compares two sets of scores on the same items.
samples: several samples of an item: pass@k, majorities, and intervals over items.
seeds: seeds made from names.
crossed: means over items that are crossed with seeds, with their intervals.
formats: shows numbers, durations and foreign text to people.
progress: the notes of running stages.
hub_sets: data sets on the hub that a benchmark and a training source read.
"""
