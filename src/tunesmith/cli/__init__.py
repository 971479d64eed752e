"""The command line: parse, call, show. No work is done here."""
