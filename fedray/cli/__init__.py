"""The command line: its options, and all that the programs print."""
