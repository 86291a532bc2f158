"""The parts of the study of refusal: prompts, reading, choice, edits, replies, figures."""
