"""One file per stage. Each names the content files of its artifact and has a `run(job)` that calls the functions doing the work."""
