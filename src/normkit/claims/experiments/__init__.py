"""The experiments, one file each: ``eNN_name.EXPERIMENT``."""
