"""What a person runs beside a job. Each command is a package with `__main__`."""
