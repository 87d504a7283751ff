"""Export: from a checkpoint to a bundle, proven step by step."""
