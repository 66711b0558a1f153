"""Training runs: a configuration, what it builds, the training itself, and the record that comes out."""
