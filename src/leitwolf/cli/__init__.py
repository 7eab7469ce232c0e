"""The command line: thin, quick to start, every command with ``--json`` and stable exit codes."""
