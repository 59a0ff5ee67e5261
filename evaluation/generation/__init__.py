"""Generation: a model's completions of a benchmark's items.

generate: one completion per item, resumable.
turns: the answers of a conversation of several turns.
completion_cache: completions by prompt, which generations of one model share.
"""
