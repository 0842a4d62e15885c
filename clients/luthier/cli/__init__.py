"""The `luthier` command. One file for each noun; docs/cli.md lists commands and exit codes.

`main` holds the table of commands and loads a command's file when the command runs: `luthier --help` loads no gRPC.
"""
