"""Report: what a run or a comparison found, for people and as JSON.

build: writes summary.json and report.html.
summary: the results of a run.
compare: the differences between two runs.
dev_set: the measurements on the dev set, of one training and of several.
rounds: the rounds of an on-policy run.
lm_eval: the results of lm-eval's tasks and of the cross-check.
charts: charts as SVG.
"""
