"""The `luthier` command. One file per noun; docs/cli.md lists commands and exit codes.

`main` has the table of commands and imports a command's file when the command runs: `luthier --help` loads no gRPC.
"""
