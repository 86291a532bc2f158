"""What is known of a stage: claims, whether it is done, whether it is whole, and whose its data are."""
