"""What is said about BatchNorm and LayerNorm, put to the test: claims, experiments, rules, verdicts."""
