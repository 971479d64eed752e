"""A page for people: jobs with live curves, models, a chat, files with what `check` found."""
