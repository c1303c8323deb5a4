"""The parts that every room may use: errors, settings, randomness, updates, scores, files."""
