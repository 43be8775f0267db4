"""The compiled kernels: what is built, when a call takes it, and its derivatives."""
