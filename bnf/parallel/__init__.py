"""Several processes that work together, on one node or on several: how they are started, how nodes meet, how errors come back.

placement: how many there are, and where their nodes meet.
launch: starts them on this node, waits for the other nodes, passes progress on, raises what one of them raised.
join: what the other nodes do.
nodes: the signs of life by which the nodes of a launch know one another.
slurm: the nodes of a Slurm job, and how the others are started.
code: what code a node computes with, which is the same on all nodes.
group: what one of the processes asks of the others.
share: tasks shared out over workers that may end.
cluster: what the machines of a Ray cluster have, and what a run keeps to of the one it began on.
ray_workers: workers on Ray, as their caller sees them.
ray_actor: the side of such a worker that computes.
worker_cores: cores that the workers of a machine share out.
sent_errors: errors on their way from a worker to its caller.
node_folders: where a node has a folder that the run's machine names.
ray_probe: asks a Ray address what is there, in a process of its own.
"""
