"""The experiments, one file each; each exports ``EXPERIMENT``."""
