"""The report of a run: summary.json, and report.html, one file that needs nothing but itself.

inputs: what a report is made from; its fields are the sections that a stage can feed
build: both files from that
sections: the page's sections in their order; one entry of its list adds one
answer: what was gained, what it cost, whether to believe it: the page's first sentence
targets: whose prompts the policy was trained on
summary: the content of summary.json, its table and its notes, as terminal, report and Prefect show them
facts: what was run, in words
policy: where the policy lies, and the line that serves it
judged, lm_eval, dev_set, rounds, training_data, ches, checkpoints: one section's figures and rows each
samples: pass@k and maj@k of several samples of each item, and how completions were drawn
judged_answers: answers with the judge's words
likelihoods: charts of training, and of what it did to the likelihood of its data
tokens: completions of the training data, coloured token by token
examples: completions that a rule chooses, and all that a model failed
items: every item of a benchmark, whole; item_pages: a page of them beside the report, with a script of its own
excerpts: the beginnings and ends of texts
charts: SVG from numbers
compare: runs against each other
swept: what the comparison of a sweep is made from
sweeps: its files: tidy tables and the page
tables: the tables as DataFrames, in the files and in a notebook
swept_scores: the runs' scores over the items that all have
swept_judges: what judges say of the settings; judged_rows: of one run, in the tables
sweep_results: settings over items and seeds, and their differences
sweep_words: where BNF loses and wins, in words
sweep_charts: gain against tax, and likelihood over training
training_figures: what a training has once, in the tables and in studies
study_facts: what a study says of itself, and the columns that it can have
study_pairs: which of its settings are compared; study_tests: in which columns, all in one family of tests
study_results: its rows, kept in the sweep's folder; study_words: what holds and what doesn't; study_figure: its figure
"""
