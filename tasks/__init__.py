"""The stages of a run as cached tasks: each is computed once per key, in a child process, and goes on where it was killed.

names: the name of a task in fields, and the ids that are made from them
nodes: a task of a run with all that it reads; what a plan says of it
stages: what each stage reads, writes and does, one file each
keys: what a stage's output depends on, as one hash
manifest: what an artifact says of itself
store: the artifacts of a home
remote: a store that several machines share
home_lock: who is at work in a home
node_folders: where a node of a cluster has an artifact's folder
execute: make one artifact, or take it from the store
resources: what a task needs of the machine, and what that has
children: the processes that live, and the devices of each
threads: what tasks are at work on at the same time
child: the process that stages run in, seen from outside; worker: seen from inside
job: what a stage's `run` is given, and what it says of its output
prefect_task: a stage as a Prefect task
"""
