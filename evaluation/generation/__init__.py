"""Generation: a model's completions of a benchmark's items.

generate: one completion per item, resumable.
samples: several completions per item, each with a seed of its own, resumable.
thinking: an engine whose thoughts have a limit.
turns: the answers of a conversation of several turns.
streaming: one completion, piece by piece.
answering: the process in which a model answers, piece by piece, what it is asked.
completion_cache: completions by prompt, which generations of one model share.
"""
