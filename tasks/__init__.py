"""The stages as cached, resumable tasks: keys, the artifact store, child processes, and one thin Prefect task around each stage."""
