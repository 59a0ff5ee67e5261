"""The home folder and the runs in it.

home: where the home is, its store, and Prefect's settings in it
record: a run's record, and which run a name stands for
policy: where a run's policy lies, and the lines that serve it
garbage: dropping what no run names
"""
