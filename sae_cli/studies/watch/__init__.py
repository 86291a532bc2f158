"""SAEs looked at live: a text token by token, and many texts by rules."""
