"""The command line: parse, call one operation, render. The one place that prints and exits."""
