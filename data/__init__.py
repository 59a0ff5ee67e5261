"""Sources and labelers become prompt groups.

contamination: whether training data hold a benchmark's items
labelers: rewards for sampled completions
sampling: prompts, and completions of them by the policy
preparing: records become prompt groups and a ledger
parse: raw records become rows
sources: what the records of each kind of data mean
reading: records from files and hubs
rows: a record's prompt and completions, and how a source reads its fields
messages: messages as chat templates take them
words: the words of a text, for comparing texts
scripts: scripts without blanks between words
"""
