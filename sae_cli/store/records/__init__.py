"""What is known of a stage: who works on it, whether it is done and whole, who reads it."""
