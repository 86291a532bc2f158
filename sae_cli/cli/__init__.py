"""The command line: thin verbs over the library. Importing it imports no torch."""
