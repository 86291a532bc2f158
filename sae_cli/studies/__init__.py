"""What single latents are: studies of trained SAEs, each in a module of its name with one `run`."""
