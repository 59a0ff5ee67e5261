"""Judging: what no rule can score, a judge compares or rates, and every reply that was paid for is kept.

run: judges the answers of a run's models, or single answers by rating or reward
open_judge: a judge from a stage's settings
pending, asking, results: what is to be judged, asking for it, what comes out
client: the judges, and how each says its verdict
calls: the record of every request that was answered
answers: recorded answers of a model
deviations: in what a result differs from the published protocol
reward_model: rewards of a sequence classifier
replies: what is shown of a conversation, and what is read from a reply
thoughts: what a model says after it has thought
protocols/: the judge protocols, one file each
aggregates/: from judgments to scores
recorded/: judgments that others recorded

Imports run from `recorded` and `run` down: `open_judge`, `pending`, `asking`, `results` → `client`, `calls`, `answers`, `deviations` →
`protocols` → `replies`, `reward_model`, `thoughts` → `aggregates`.
"""
