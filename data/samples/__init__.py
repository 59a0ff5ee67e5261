"""Small preference pairs of the project's own.

make: writes pairs.jsonl
"""
