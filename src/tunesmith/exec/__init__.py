"""Where things run. A job is a name and JSON, nothing pickled; `local` starts a child process for it."""
