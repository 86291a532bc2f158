"""The stages: each reads finished folders, writes its own, and knows of nothing else."""
