"""What pipelines and trainers share: how their files are read, what both declare, output locks."""
