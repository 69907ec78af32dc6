"""The command that measures what this machine runs a model fastest with."""
