"""The report of a run: summary.json, and report.html, one file that needs nothing but itself.

inputs: what a report is made from; its fields are the sections that a stage can feed
build: both files from that
summary: the content of summary.json, its table and its notes, as terminal, report and Prefect show them
facts: what was run, in words
policy: where the policy lies, and the line that serves it
judged, lm_eval, dev_set, rounds, training_data: one section's figures and rows each
likelihoods: charts of training, and of what it did to the likelihood of its data
examples: completions that a rule chooses
charts: SVG from numbers
compare: runs against each other
"""
