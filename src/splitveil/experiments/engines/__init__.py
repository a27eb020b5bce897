"""Who runs many jobs: processes of this machine, or machines of a cluster."""
