"""The home folder and the runs in it.

home: where the home is, its store, and Prefect's settings in it
run_json: what run.json holds
record: a run's record, and which run a name stands for
owner: which process is at a run or a sweep
disk: what to say of a disk that takes nothing more
policy: where a run's policy lies, and the lines that serve it
progress: how far a run's tasks at work are, for other processes
past: which run made an artifact
naming: how a run's name says what it changed
sweeps: the sweeps' records
swept: what a run of a sweep gave, as the comparison takes it
made: the time, machines and versions that results took
listing: the runs as `bnf runs` lists them
sizes: what room the runs take
garbage: dropping what no run names, and runs
"""
