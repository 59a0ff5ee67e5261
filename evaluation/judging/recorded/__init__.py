"""Judgments that others recorded, as benchmarks publish them or as another run left them: read, aggregated and shown.

score: every model's result from files of judgments
arena_scores: Arena-Hard's results
readers: the judgments of a file, in any of the formats
arena, names, rows: Arena-Hard's format, what upstream says in file names alone, what a reader gives
tables: the results as tables of text
"""
