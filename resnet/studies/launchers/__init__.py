"""Where the work of a study is done, if not by the process that starts it."""
