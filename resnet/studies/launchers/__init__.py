"""Ways to train the runs of a study in other processes: jobs on this machine, or on a cluster."""
