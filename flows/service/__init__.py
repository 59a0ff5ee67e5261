"""Prefect, as far as it is more than a library: servers, workers, deployments, limits.

server: the home's Prefect server
worker: `bnf worker`
deploy: `bnf deploy`, and the steps of prefect.yaml
accelerator: one stage at a time on a machine's accelerator
sharing: what each of several runs of one process has of the machine
cancel: cancelling a run from outside
unshown: what the server could not be told, and how a flow ends then
crashed: runs whose process is gone
attaching: a run's table and report in its training's loggers
keys: services' keys from Prefect's blocks
"""
