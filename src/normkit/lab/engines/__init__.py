"""Where runs are computed: worker processes on this machine, or a Ray cluster. The records are the same."""
