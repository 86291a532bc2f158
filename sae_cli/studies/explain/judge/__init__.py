"""A language model behind an endpoint: what it is asked, what it answers, and what that costs."""
